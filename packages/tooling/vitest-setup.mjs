// @ts-check
// Before each test file: properties are tested with the same random values every time, so that a run can be repeated.
// FAST_CHECK_SEED=N tries others.
import fc from "fast-check"

fc.configureGlobal({ seed: Number(process.env.FAST_CHECK_SEED ?? 1) })
