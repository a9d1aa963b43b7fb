/**
 * Where the loaders put what they hand to the guest, below 640 KiB. All of it is consumed by the guest's first
 * instructions, so it lies in memory that the guest may use afterwards.
 */

/** Global descriptor table. */
export const GDT_ADDRESS = 0x500
/** hvm_start_info of PVH, its module list and its memory map. */
export const PVH_INFO_ADDRESS = 0x6000
/** boot_params, the "zero page" of the Linux boot protocol. */
export const ZERO_PAGE_ADDRESS = 0x7000
/** Page tables: 6 pages. */
export const PAGE_TABLE_ADDRESS = 0x9000
/** Command line, NUL-terminated. */
export const CMDLINE_ADDRESS = 0x20000
/** Most bytes of a command line that have room, without the NUL. */
export const CMDLINE_LIMIT = 0xffff

/** End of conventional memory, start of the extended BIOS data area. */
export const LOW_MEMORY_END = 0x9fc00
/** Start of memory above the legacy area. */
export const HIGH_MEMORY_START = 0x100000
