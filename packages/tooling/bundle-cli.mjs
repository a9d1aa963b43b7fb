// Makes one file a command of what `virtkit` loads: node packages/tooling/bundle-cli.mjs
//
// Loading a module costs Node.js a few file system calls and a compilation; on the lab's emulated CPU 150 of them took a
// second of every start. The packages that find files of theirs beside themselves stay outside.
import { rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "rolldown"

const packages = dirname(dirname(fileURLToPath(import.meta.url)))
const directory = join(packages, "cli/dist/bundle")

rmSync(directory, { recursive: true, force: true })
// What threads run has to lie beside the code that starts them. Bundles of their own: with one for all, each start would
// load many small files that they have in common.
for (const input of ["cli/dist/bin.js", "virtio-blk/dist/threads/block-worker.js"]) {
  await build({
    input: join(packages, input),
    platform: "node",
    external: [/^@virtkit\/(native|lab)(\/|$)/],
    logLevel: "warn",
    output: { dir: directory, format: "esm", comments: false },
  })
}
