/** Entropy device, virtio 1.3, section 5.4. It has no feature bits and no configuration space. */

/** Section 5.4.1. */
export const VIRTIO_ID_RNG = 4

/** Section 5.4.2. */
export const REQUESTQ = 0
