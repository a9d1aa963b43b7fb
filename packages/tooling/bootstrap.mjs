// Replaced by the bootstrap proper: builds the native addon and the packages.
import { spawnSync } from "node:child_process"

for (const command of ["npx cmake-js build --out build -d native", "npx tsc -b"]) {
  const { status } = spawnSync(command, { shell: true, stdio: "inherit" })
  if (status !== 0) process.exit(status ?? 1)
}
