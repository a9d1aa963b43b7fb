/** Pseudo-random numbers that follow from a seed (sfc32). */
export class Random {
  #a: number
  #b = 0x9e37_79b9
  #c = 0x243f_6a88
  #counter = 1

  /** `seed`: an integer; its low 32 bits count. */
  constructor(seed: number) {
    this.#a = seed | 0
    for (let i = 0; i < 12; i++) this.u32()
  }

  /** 32 bits. */
  u32(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter++) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0
    return sum >>> 0
  }

  /** An integer from 0 to `bound - 1`; 0 if that is less than 1. */
  below(bound: number): number {
    return bound < 1 ? 0 : this.u32() % bound
  }

  pick<Value>(list: readonly Value[]): Value {
    return list[this.below(list.length)]!
  }
}
