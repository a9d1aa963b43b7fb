import { describe, expect, it } from "vitest"
import { EXPECTED_COMPLAINTS, LinuxLab } from "../src/index.js"

const GiB = 2 ** 30
const ROUNDS = 100

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  "hot-plug": `awk 'BEGIN { for (i = 0; i < 131072; i++) printf "%015d\\n", i }' >/tmp/pattern
echo pattern $(sha256sum </tmp/pattern)
(
  read -r line
  echo "complaints:"
  dmesg -r | grep '^<[0-4]>' | sed 's/^.*\\] //'
  echo "end of complaints"
) </dev/console &
round=0
while :; do
  while set -- /dev/vd?; [ ! -b "$1" ]; do usleep 20000; done
  disk=$1
  round=$((round + 1))
  while /usr/bin/dd if=$disk of=/dev/null bs=16384 iflag=direct 2>/dev/null; do :; done &
  echo writing $round
  passes=0
  while /usr/bin/dd if=/tmp/pattern of=$disk bs=4096 oflag=direct conv=nocreat,notrunc 2>/tmp/said; do passes=$((passes + 1)); done
  blocks=$(sed -n 's/+. records out//p' /tmp/said)
  while [ -b "$disk" ]; do usleep 20000; done
  wait %2
  echo round $round passes $passes blocks \${blocks:-0}
done
`,
}

interface Result {
  readonly rounds: readonly { passes: number; acknowledged: number; lost: number; wrong: number }[]
  readonly before: object
  readonly after: object
  readonly complaints: string
}

describe("a disk that comes and goes while a Linux guest runs", { timeout: 600_000 }, () => {
  it(`${ROUNDS} times, with requests in flight: none is lost, nothing is left`, async () => {
    await using linux = await LinuxLab.start(scripts, { memory: 2 * GiB, programs: ["/usr/bin/dd"] })
    const { rounds, before, after, complaints } = (await linux.program("hot-plug", String(ROUNDS))) as Result
    expect(rounds.length).toBe(ROUNDS)
    expect(rounds.filter(({ lost, wrong }) => lost > 0 || wrong > 0)).toEqual([])
    // It was at work each time.
    expect(rounds.filter(({ passes, acknowledged }) => passes + acknowledged === 0).length).toBeLessThan(
      ROUNDS / 4,
    )
    expect(after).toEqual(before)
    // Requests that the guest began after it had let go fail in the guest.
    const expected = new RegExp(`I/O error|lost async page write|${EXPECTED_COMPLAINTS}|^$`)
    expect(complaints.split("\n").filter((line) => !expected.test(line))).toEqual([])
  })
})
