/** Conversions between a time and the MC146818's registers, in the format that its register B selects. */

/** Register indices of the time of day. */
export const SECONDS = 0x00
export const SECONDS_ALARM = 0x01
export const MINUTES = 0x02
export const MINUTES_ALARM = 0x03
export const HOURS = 0x04
export const HOURS_ALARM = 0x05
export const DAY_OF_WEEK = 0x06
export const DAY_OF_MONTH = 0x07
export const MONTH = 0x08
export const YEAR = 0x09
/** Not of the MC146818 itself but of the PC; the FADT's CENTURY names it. */
export const CENTURY = 0x32

export const B_24_HOURS = 0x02
export const B_BINARY = 0x04

const HOURS_PM = 0x80
/** An alarm register with both top bits set matches every time. */
const ALARM_ANY = 0xc0

export function isTimeRegister(index: number): boolean {
  return (
    index === CENTURY ||
    (index <= YEAR && index !== SECONDS_ALARM && index !== MINUTES_ALARM && index !== HOURS_ALARM)
  )
}

function encode(value: number, b: number): number {
  return ((b & B_BINARY) !== 0 ? value : Math.floor(value / 10) * 16 + (value % 10)) & 0xff
}

/** Takes any byte: one that is no BCD number gives some number up to 165. */
function decode(byte: number, b: number): number {
  return (b & B_BINARY) !== 0 ? byte : (byte >> 4) * 10 + (byte & 0x0f)
}

function encodeHours(hours: number, b: number): number {
  if ((b & B_24_HOURS) !== 0) return encode(hours, b)
  return encode(hours % 12 === 0 ? 12 : hours % 12, b) | (hours >= 12 ? HOURS_PM : 0)
}

function decodeHours(byte: number, b: number): number {
  if ((b & B_24_HOURS) !== 0) return decode(byte, b)
  return (decode(byte & ~HOURS_PM, b) % 12) + ((byte & HOURS_PM) !== 0 ? 12 : 0)
}

/** Writes the time `ms` (since 1970, UTC) to the time registers in `registers`. */
export function storeTime(registers: Uint8Array, ms: number, b: number): void {
  const time = new Date(ms)
  const year = time.getUTCFullYear()
  registers[SECONDS] = encode(time.getUTCSeconds(), b)
  registers[MINUTES] = encode(time.getUTCMinutes(), b)
  registers[HOURS] = encodeHours(time.getUTCHours(), b)
  registers[DAY_OF_WEEK] = encode(time.getUTCDay() + 1, b)
  registers[DAY_OF_MONTH] = encode(time.getUTCDate(), b)
  registers[MONTH] = encode(time.getUTCMonth() + 1, b)
  registers[YEAR] = encode(year % 100, b)
  registers[CENTURY] = encode(Math.floor(year / 100), b)
}

/**
 * The time in the time registers, in ms since 1970, UTC. Any bytes give a valid time: a 31st of February is a day of
 * March.
 */
export function loadTime(registers: Uint8Array, b: number): number {
  const year = decode(registers[CENTURY]!, b) * 100 + decode(registers[YEAR]!, b)
  const time = new Date(0)
  // Not Date.UTC, which takes years below 100 for those of the 20th century.
  time.setUTCFullYear(year, decode(registers[MONTH]!, b) - 1, decode(registers[DAY_OF_MONTH]!, b))
  time.setUTCHours(
    decodeHours(registers[HOURS]!, b),
    decode(registers[MINUTES]!, b),
    decode(registers[SECONDS]!, b),
  )
  return time.getTime()
}

/**
 * The first second after `after` (both in seconds since 1970, UTC) that matches the alarm registers; undefined when none
 * ever does. At most some 200 steps.
 */
export function nextAlarm(registers: Uint8Array, after: number, b: number): number | undefined {
  const hoursByte = registers[HOURS_ALARM]!
  const minutesByte = registers[MINUTES_ALARM]!
  const secondsByte = registers[SECONDS_ALARM]!
  const hours = hoursByte >= ALARM_ANY ? -1 : decodeHours(hoursByte, b)
  const minutes = minutesByte >= ALARM_ANY ? -1 : decode(minutesByte, b)
  const seconds = secondsByte >= ALARM_ANY ? -1 : decode(secondsByte, b)
  if (hours > 23 || minutes > 59 || seconds > 59) return undefined
  for (let at = after + 1; at <= after + 86_400; ) {
    const ofDay = ((at % 86_400) + 86_400) % 86_400
    if (hours >= 0 && Math.floor(ofDay / 3600) !== hours) at += 3600 - (ofDay % 3600)
    else if (minutes >= 0 && Math.floor(ofDay / 60) % 60 !== minutes) at += 60 - (ofDay % 60)
    else if (seconds >= 0 && ofDay % 60 !== seconds) at++
    else return at
  }
  return undefined
}
