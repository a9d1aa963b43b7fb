/** A defect for a target to find: a piece of a compiled file of the packages, and what takes its place. */
export interface Plant {
  /** The target that must find it. */
  readonly target: string
  /** Such as "virtqueue/dist/reader.js". */
  readonly file: string
  readonly from: string
  readonly to: string
  /** What goes wrong with it. */
  readonly defect: string
}
