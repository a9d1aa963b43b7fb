import type { Summary } from "./summary.js"

/** One table of results. */
export interface Section {
  readonly title: string
  /** Names of the columns. Default: virtkit beside QEMU. */
  readonly head?: readonly string[]
  /** What, virtkit, peer, ratio, goal: as {@link row} makes them. */
  readonly rows: readonly (readonly string[])[]
  /** Sentences below the table. */
  readonly notes?: readonly string[]
}

const HEAD = ["", "virtkit", "QEMU 7.2", "ratio", "goal"]

/** Medians with the range behind them, and virtkit's median as a multiple of the peer's. */
export function row(what: string, virtkit: Summary, peer: Summary, goal = ""): string[] {
  // Nothing beside nothing has no ratio.
  const ratio = peer.median === 0 ? "" : (virtkit.median / peer.median).toFixed(2)
  return [what, describe(virtkit), describe(peer), ratio, goal]
}

/** A row without a peer. */
export function plainRow(what: string, virtkit: Summary, goal = ""): string[] {
  return [what, describe(virtkit), "", "", goal]
}

function describe({ median, min, max, runs }: Summary): string {
  return runs === 1 ? number(median) : `${number(median)} (${number(min)} to ${number(max)}, ${runs} runs)`
}

function number(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(2)
}

/** The tables as Markdown. */
export function formatReport(sections: readonly Section[]): string {
  return sections.map(formatSection).join("\n")
}

function formatSection({ title, head = HEAD, rows, notes = [] }: Section): string {
  const lines = [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`)
  return [`## ${title}`, "", ...lines, "", ...notes, ""].join("\n")
}
