// npm run fuzz [-- OPTIONS] [TARGET...]: see README.md.
import { main } from "./main.js"

process.exitCode = await main(process.argv.slice(2))
