import { Limiter } from "@virtkit/virtqueue"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"

describe("a limiter", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  /** One that lets 10 units a second pass, one at a time; the only one of now is gone. */
  function exhausted() {
    const resume = vi.fn()
    const limiter = new Limiter({ unitsPerSecond: 10, burstMs: 100 }, resume)
    expect(limiter.allowance()).toBe(1)
    limiter.take(60, 1)
    return { limiter, resume }
  }

  it("without a limit lets everything pass, and takes one later", () => {
    const resume = vi.fn()
    const limiter = new Limiter(undefined, resume)
    limiter.take(1e9, 1e9)
    expect([limiter.limited, limiter.allowance()]).toEqual([false, Number.POSITIVE_INFINITY])
    limiter.set({ unitsPerSecond: 10, burstMs: 100 })
    expect([limiter.limited, limiter.allowance()]).toEqual([true, 1])
    expect(vi.getTimerCount()).toBe(0)
    expect(resume).not.toHaveBeenCalled()
  })

  it("resumes once when the next unit may pass, however often it was asked", () => {
    const { limiter, resume } = exhausted()
    expect([limiter.allowance(), limiter.allowance(), vi.getTimerCount()]).toEqual([0, 0, 1])
    vi.advanceTimersByTime(99)
    expect(resume).not.toHaveBeenCalled()
    vi.advanceTimersByTime(1)
    expect(resume).toHaveBeenCalledTimes(1)
    expect([limiter.allowance(), vi.getTimerCount()]).toEqual([1, 0])
  })

  it("waits on when its timer was early", () => {
    const { limiter, resume } = exhausted()
    limiter.allowance()
    const early = vi.spyOn(performance, "now").mockReturnValue(performance.now() + 99.5)
    vi.advanceTimersByTime(100)
    expect(resume).not.toHaveBeenCalled()
    expect(vi.getTimerCount()).toBe(1)
    early.mockRestore()
    vi.advanceTimersByTime(1)
    expect(resume).toHaveBeenCalledTimes(1)
  })

  it("resumes at once what waits when the limit changes, and nothing when stopped", () => {
    const { limiter, resume } = exhausted()
    limiter.allowance()
    limiter.set(undefined)
    expect([resume.mock.calls.length, vi.getTimerCount(), limiter.limited]).toEqual([1, 0, false])
    limiter.set({ unitsPerSecond: 10, burstMs: 100 })
    limiter.take(0, 1)
    expect([limiter.allowance(), vi.getTimerCount()]).toEqual([0, 1])
    limiter.stop()
    vi.advanceTimersByTime(1000)
    expect([resume.mock.calls.length, vi.getTimerCount()]).toEqual([1, 0])
  })
})
