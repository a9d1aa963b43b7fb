// @ts-check
// The tests of @virtkit/virtqueue with one defect of mutate-ring-list.mjs, whose number is in VIRTKIT_MUTATION.
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"
import { MUTATIONS } from "./mutate-ring-list.mjs"

const packages = fileURLToPath(new URL("..", import.meta.url))
const mutation = MUTATIONS[Number(process.env.VIRTKIT_MUTATION || "NaN")]

export default defineConfig({
  resolve: { alias: [{ find: /^@virtkit\/([a-z-]+)$/, replacement: `${packages}$1/src/index.ts` }] },
  test: { pool: "forks", fileParallelism: false, testTimeout: 20_000 },
  plugins: [
    {
      name: "mutate-ring",
      enforce: "pre",
      transform(code, id) {
        if (mutation === undefined) return undefined
        const [file, from, to] = mutation
        return id.endsWith(`/virtqueue/src/${file}`) ? code.replace(from, () => to) : undefined
      },
    },
  ],
})
