/**
 * Answers what U-Boot says on its console: a key when it is about to boot by itself, then a command at each prompt.
 * Takes all that was said so far, each time that there is more; gives what to type, if anything.
 */
export function uBootTalk(commands: readonly string[]): (said: string) => string | undefined {
  const left = [...commands]
  let seen = 0
  return (said) => {
    const news = said.slice(seen)
    const isPrompt = news.endsWith("=> ")
    if (!isPrompt && !news.includes("stop autoboot")) return undefined
    seen = said.length
    if (!isPrompt) return " "
    const command = left.shift()
    return command === undefined ? undefined : `${command}\n`
  }
}

/** Reads sector 7 of the first virtio disk to memory, shows it, and writes it to sector 9. */
export const COPY_SECTOR: readonly string[] = [
  "virtio scan",
  "virtio info",
  "virtio read 1000000 7 1",
  "md.b 1000000 30",
  "virtio write 1000000 9 1",
]
/** To the ACPI sleep control: it has no command for that. */
export const POWER_OFF = "iow.b 600 34"
