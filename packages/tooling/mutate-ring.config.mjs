// @ts-check
// The tests' configuration with one defect of mutate-ring-list.mjs, whose number is in VIRTKIT_MUTATION.
import { mergeConfig } from "vitest/config"
import base from "../../vitest.config.ts"
import { MUTATIONS } from "./mutate-ring-list.mjs"

const mutation = MUTATIONS[Number(process.env.VIRTKIT_MUTATION || "NaN")]

export default mergeConfig(base, {
  plugins: [
    {
      name: "mutate-ring",
      enforce: "pre",
      /** @param {string} code @param {string} id */
      transform(code, id) {
        if (mutation === undefined) return undefined
        const [file, from, to] = mutation
        return id.endsWith(`/virtqueue/src/${file}`) ? code.replace(from, () => to) : undefined
      },
    },
  ],
})
