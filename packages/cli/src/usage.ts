/** The command line is wrong: one line says how, exit status 2. */
export class UsageError extends Error {
  override readonly name = "UsageError"
}

export const EXIT_CLEAN = 0
export const EXIT_CRASH = 1
export const EXIT_USAGE = 2
export const EXIT_TIMEOUT = 124

export const usage = `virtkit: virtual machines from npm packages

  virtkit run --kernel FILE [options]   boot a kernel
  virtkit serve DEVICE --socket PATH    a device for another virtual machine monitor (vhost-user)
  virtkit doctor [--json]               what this host can do, and what to do about what it cannot
  virtkit lab [options] -- COMMAND...   a command on a host with KVM, emulated in software
  virtkit kernel [--output FILE]        a distribution kernel to boot
  virtkit help [COMMAND]
  virtkit version

Exit status of run: 0 the guest powered off or rebooted, 1 it crashed, 2 wrong usage or configuration, 124 timeout.
`

export const runUsage = `virtkit run: boot a kernel in a virtual machine

  --kernel FILE         bzImage, ELF vmlinux or PVH image; or firmware, such as SeaBIOS or U-Boot (required)
  --initrd FILE         initial RAM disk
  --cmdline STRING      appended to the kernel command line
  --memory SIZE         RAM, such as 512M or 2G (default 512M)
  --cpus N[,sockets=S][,cores=C][,threads=T]
                        how many, 1 to 255, and how they are arranged (default 1; what is left out follows)
  --cpu MODEL           host, baseline, x86-64-v1 to x86-64-v4, or a FILE.json (default host)
  --msr-filter FILE     model specific registers that the guest may access, as JSON
  --disk FILE[,readonly][,format=raw|qcow2][,serial=S][,queues=N]
         [,cache=writeback|writethrough|direct|unsafe][,iops=N][,bps=N][,backing=PATH]...
         [,engine=auto|io_uring|threads][,poll=MICROSECONDS][,thread=on|off|N]
                        a disk image or block device; may be repeated; a comma in FILE is written ",,"; PATH: a
                        file, or a folder of files, that a qcow2 image may be laid over; thread: it is worked on by
                        a thread of its own, or N of them for as many queues or more
  --net tap=IF[,queues=N][,offloads=on|off][,create]
                        a network device on a TAP interface of this host; create makes one for this run
  --net passt[,tcp=PORTS]...[,udp=PORTS]...
                        one that needs no privilege; PORTS such as 8080:80 lead from this host to the guest
  --net socket,listen=ADDRESS or socket,connect=ADDRESS
                        one on a wire to a virtual machine, also of QEMU; a path, PORT or HOST:PORT
  --net none            none; all others may be repeated, and take mac=M, mtu=N and capture=FILE (pcapng)
                        (default passt where it is installed, for a user who is not root; else none)
  --device vhost-user,type=TYPE,socket=PATH[,tag=TAG][,mac=M][,queues=N][,queue-size=N]
         [,reconnect=on|off]
                        a device that another process serves, such as virtiofsd (type=fs,tag=...),
                        qemu-storage-daemon (type=blk) or virtkit serve; may be repeated
  --console KIND        virtio, serial or none: what stdin and stdout are connected to (default serial)
  --transport KIND      pci or mmio: how the guest finds virtio devices (default pci)
  --rings split|packed[,inorder][,event_idx=off][,indirect=off]
                        what virtio devices offer for their rings; the guest need not take it (default split)
  --accel KIND          auto, kvm or lab (default auto: kvm if it can run Linux, else the lab)
  --timeout SECONDS     end the guest then, with status 124
  --report FILE         write what happened as JSON

On a terminal, Ctrl-A x leaves and Ctrl-A Ctrl-A sends Ctrl-A.
`

export const serveUsage = `virtkit serve: a device for another virtual machine monitor, such as QEMU, over vhost-user

  virtkit serve blk --socket PATH --disk FILE[,readonly][,serial=S][,cache=...][,queues=N]
                        a disk, with 4 queues and poll=64 unless told; the options of --disk are those of virtkit run,
                        but for thread
  virtkit serve net --socket PATH --net tap=IF[,...] | passt[,...] | socket,...
                        a network device; the options of --net are those of virtkit run
  virtkit serve console --socket PATH
                        a console on stdin and stdout
  virtkit serve rng --socket PATH
                        random numbers
  --rings split|packed[,inorder][,event_idx=off][,indirect=off]
                        what the rings offer to the driver, which need not take it (default split)

Front ends may come and go, one at a time, until SIGTERM or SIGINT. QEMU needs guest memory that it can share:

  virtkit serve blk --socket disk.sock --disk disk.img &
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=ram,size=1G,share=on -machine memory-backend=ram \\
    -chardev socket,id=disk,path=disk.sock,reconnect=1 -device vhost-user-blk-pci,chardev=disk ...
`

export const doctorUsage = `virtkit doctor: what this host can do

  --json                as JSON
`

export const labUsage = `virtkit lab: run a command on a Linux host with KVM, emulated in software

  --memory SIZE         of that host (default 2G)
  --cpus N              of that host (default 2)
  --copy SRC[:DEST]     copy a file or directory in first; may be repeated

The command's exit status is virtkit's.
`

export const kernelUsage = `virtkit kernel: find a distribution kernel, or download one with the package manager

  --output FILE         copy it there; without, print its path
`
