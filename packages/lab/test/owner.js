// Starts a lab, says so, and waits to be killed: see owner.lab.test.ts.
import { Lab } from "@virtkit/lab"

const lab = await Lab.start({ memory: 512 * 2 ** 20, timeout: 120_000 })
lab.spawn(["sleep", "1000"])
console.log("ready")
