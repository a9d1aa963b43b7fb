/** A message with # for its numbers: the same words for all that differ in nothing else. */
export function withoutNumbers(text: string): string {
  return text.replaceAll(/0x[0-9a-f]+|\d+(\.\d+)?/gi, "#")
}
