// Makes one file a command of what `virtkit` loads: node packages/tooling/bundle-cli.mjs
//
// Loading a module costs Node.js a few file system calls and a compilation; on the lab's emulated CPU 150 of them took a
// second of every start. The packages that find files of theirs beside themselves stay outside.
import { rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "rolldown"

const cli = join(dirname(dirname(fileURLToPath(import.meta.url))), "cli")
const directory = join(cli, "dist/bundle")

rmSync(directory, { recursive: true, force: true })
await build({
  input: join(cli, "dist/bin.js"),
  platform: "node",
  external: [/^@virtkit\/(native|lab)(\/|$)/],
  logLevel: "warn",
  output: { dir: directory, format: "esm", comments: false },
})
