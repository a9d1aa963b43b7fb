import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"
import { workersFromSources } from "./packages/tooling/vitest-workers.mjs"

const packages = fileURLToPath(new URL("./packages", import.meta.url))
const report = `${packages}/tooling/vitest-report.mjs`

// Tests run against the sources: `@virtkit/x` and `@virtkit/x/y` are the files that the package's exports are built from.
export default defineConfig({
  plugins: [workersFromSources()],
  resolve: {
    alias: [
      { find: /^@virtkit\/(?!native)([a-z-]+)$/, replacement: `${packages}/$1/src/index.ts` },
      { find: /^@virtkit\/(?!native)([a-z-]+)\/([a-z0-9-]+)$/, replacement: `${packages}/$1/src/$2.ts` },
    ],
  },
  test: {
    include: ["packages/*/test/**/*.test.ts", "native/test/**/*.test.ts"],
    pool: "forks",
    // A lab has two CPUs of its own, and the kernel in it measures its clock against ours while it starts.
    fileParallelism: false,
    testTimeout: 20_000,
    setupFiles: [`${packages}/tooling/vitest-setup.mjs`],
    // .ci/run asks for the counts and the skipped tests.
    reporters: process.env.VIRTKIT_TEST_REPORT ? ["default", report] : ["default"],
    coverage: { include: ["packages/*/src/**"] },
  },
})
