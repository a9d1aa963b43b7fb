/** Whether this process may make an io_uring: 0, or the errno of the attempt (EPERM where a sandbox forbids it). */
export declare function probeIoUring(): number
