/** What the guest of the network benchmark says before each traffic, with its name. */
export const BEGIN = "bench: begin"

/** Traffic by its name, with the options of iperf3 in the guest. */
export const NET_PHASES = {
  send: "",
  receive: "-R",
  "send-packets": "-u -b 0 -l 64",
  "receive-packets": "-u -b 0 -l 64 -R",
} as const
export type NetPhase = keyof typeof NET_PHASES

export interface NetResult {
  readonly megabitsPerSecond: number
  readonly packetsPerSecond: number
  /** Of the VMM process, outside of its guest. */
  readonly cpuSecondsPerGigabyte: number
  /** Exits of vCPUs, and those of them that went to the VMM, for each thousand packets. */
  readonly exitsPerThousand: number
  readonly userExitsPerThousand: number
}

export type NetResults = Partial<Record<NetPhase, NetResult>>
