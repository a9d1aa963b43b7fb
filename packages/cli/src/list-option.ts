import { UsageError } from "./usage.js"

/** `NAME[,key[=value]]...` with ",," for a comma in a value, as in QEMU's options. */
export interface ListOption {
  readonly name: string
  readonly keys: ReadonlyMap<string, string | true>
  /** The values of each key that may be there several times. */
  readonly lists: ReadonlyMap<string, readonly string[]>
}

/**
 * `option` names it in messages; `known` are the keys that may follow, `repeatable` those that may do so several times.
 * Throws {@link UsageError}.
 */
export function parseListOption(
  text: string,
  option: string,
  known: readonly string[],
  repeatable: readonly string[] = [],
): ListOption {
  const [name = "", ...rest] = splitWords(text)
  if (name === "") throw new UsageError(`${option} "${text}": it must start with a name`)
  const keys = new Map<string, string | true>()
  const lists = new Map(repeatable.map((key): [string, string[]] => [key, []]))
  for (const word of rest) {
    const equals = word.indexOf("=")
    const key = equals < 0 ? word : word.slice(0, equals)
    const list = lists.get(key)
    if (list !== undefined) {
      if (equals < 0 || equals === word.length - 1)
        throw new UsageError(`${option} "${text}": ${key} needs a value`)
      list.push(word.slice(equals + 1))
      continue
    }
    if (!known.includes(key)) {
      const choices = [...known, ...repeatable].join(", ") || "nothing"
      throw new UsageError(`${option} "${text}": unknown "${key}", it can have ${choices}`)
    }
    if (keys.has(key)) throw new UsageError(`${option} "${text}": "${key}" is there twice`)
    keys.set(key, equals < 0 ? true : word.slice(equals + 1))
  }
  return { name, keys, lists }
}

/** A word as {@link parseListOption} reads it back. */
export function escapeWord(word: string): string {
  return word.replaceAll(",", ",,")
}

/** From the left, two commas are one of the word and one comma ends it. */
function splitWords(text: string): string[] {
  const words: string[] = []
  let word = ""
  for (let at = 0; at < text.length; at++) {
    if (text[at] !== ",") {
      word += text[at]
    } else if (text[at + 1] === ",") {
      word += ","
      at++
    } else {
      words.push(word)
      word = ""
    }
  }
  return [...words, word]
}

/** One of `choices`, or undefined when the key is absent. */
export function choiceKey<T extends string>(
  list: ListOption,
  option: string,
  key: string,
  choices: readonly T[],
): T | undefined {
  const value = list.keys.get(key)
  if (value === undefined) return undefined
  const choice = choices.find((candidate) => candidate === value)
  if (choice === undefined)
    throw new UsageError(`${option} ${list.name}: ${key} must be ${choices.join(", ")}`)
  return choice
}

/** A whole number from 1, or undefined when the key is absent. */
export function countKey(
  list: ListOption,
  option: string,
  key: string,
  least: 0 | 1 = 1,
): number | undefined {
  const value = list.keys.get(key)
  if (value === undefined) return undefined
  if (value === true || !/^(?:0|[1-9]\d{0,4})$/.test(value) || Number(value) < least) {
    throw new UsageError(`${option} ${list.name}: ${key} must be a number from ${least}`)
  }
  return Number(value)
}

/** A number from 1, which K, M and G make 2^10, 2^20 and 2^30 times as large; undefined when the key is absent. */
export function amountKey(list: ListOption, option: string, key: string): number | undefined {
  const value = list.keys.get(key)
  if (value === undefined) return undefined
  const [, digits, unit = ""] = (value !== true && /^([1-9]\d{0,11})([KMG]?)$/.exec(value)) || []
  if (digits === undefined)
    throw new UsageError(`${option} ${list.name}: ${key} must be a number from 1, such as 500 or 20M`)
  return Number(digits) * 2 ** (10 * " KMG".indexOf(unit || " "))
}

/** A text that is not empty, or undefined when the key is absent. */
export function textKey(list: ListOption, option: string, key: string): string | undefined {
  const value = list.keys.get(key)
  if (value === true || value === "") throw new UsageError(`${option} ${list.name}: ${key} needs a value`)
  return value
}

/** Whether a key without value is there. */
export function flagKey(list: ListOption, option: string, key: string): boolean {
  const value = list.keys.get(key)
  if (typeof value === "string") throw new UsageError(`${option} ${list.name}: ${key} takes no value`)
  return value === true
}
