// @ts-check
// Every ```ts block in the READMEs and docs compiles, each as a module of its own, against the built packages. What is
// only a sketch is marked ```text. Every published library shows at least one example.
import { existsSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import ts from "typescript"
import { markdownFiles, runAlone, shown, workspaces } from "./check-lib.mjs"

/**
 * @typedef {object} Example
 * @property {string} file the Markdown file
 * @property {number} line of its fence, from 1
 * @property {string} text preceded by empty lines, so that line numbers are the Markdown file's
 */

/**
 * @param {string} file
 * @returns {Example[]}
 */
export function examplesIn(file) {
  const lines = readFileSync(file, "utf8").split("\n")
  /** @type {Example[]} */
  const examples = []
  for (let i = 0; i < lines.length; i++) {
    if (lines[i] !== "```ts") continue
    const end = lines.indexOf("```", i + 1)
    const body = lines.slice(i + 1, end === -1 ? undefined : end)
    examples.push({ file, line: i + 1, text: "\n".repeat(i + 1) + body.join("\n") })
    i += body.length
  }
  return examples
}

/** @param {string} root */
export function check(root) {
  const examples = markdownFiles(root).flatMap(examplesIn)
  const findings = diagnostics(root, examples)
  for (const { path, folder, manifest } of workspaces(root)) {
    if (manifest.private === true || manifest.bin !== undefined) continue
    const readme = join(path, "README.md")
    if (!examples.some(({ file }) => file === readme) && existsSync(readme)) {
      findings.push(`${folder}/README.md: no \`\`\`ts example`)
    }
  }
  return { findings, summary: `${examples.length} examples compile` }
}

/**
 * @param {string} root
 * @param {Example[]} examples
 * @returns {string[]}
 */
function diagnostics(root, examples) {
  // Each example is a file beside its Markdown file that exists for the compiler only.
  const virtual = new Map(examples.map((example) => [`${example.file}.${example.line}.ts`, example]))
  const options = exampleOptions(root)
  const host = ts.createCompilerHost(options)
  const { fileExists, readFile, getSourceFile } = host
  host.fileExists = (path) => virtual.has(path) || fileExists(path)
  host.readFile = (path) => virtual.get(path)?.text ?? readFile(path)
  host.getSourceFile = (path, languageVersion, ...rest) => {
    const example = virtual.get(path)
    if (example === undefined) return getSourceFile(path, languageVersion, ...rest)
    return ts.createSourceFile(path, example.text, languageVersion)
  }
  host.getCurrentDirectory = () => root
  const program = ts.createProgram([...virtual.keys()], options, host)
  return [...virtual.keys()].flatMap((path) => {
    const file = program.getSourceFile(path)
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)].map(
      (diagnostic) => {
        const { line } = file?.getLineAndCharacterOfPosition(diagnostic.start ?? 0) ?? { line: 0 }
        const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, " ")
        const markdown = join(dirname(path), path.slice(dirname(path).length + 1).replace(/\.\d+\.ts$/, ""))
        return `${shown(root, markdown)}:${line + 1}: ${text}`
      },
    )
  })
}

/**
 * The packages' own options, except those about emitting and about leftovers that an example may have.
 * @param {string} root
 * @returns {ts.CompilerOptions}
 */
function exampleOptions(root) {
  const path = join(root, "tsconfig.base.json")
  const { config } = ts.readConfigFile(path, ts.sys.readFile)
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root, path)
  return {
    ...options,
    noEmit: true,
    composite: false,
    declaration: false,
    declarationMap: false,
    isolatedDeclarations: false,
    noUnusedLocals: false,
    noUnusedParameters: false,
    moduleDetection: ts.ModuleDetectionKind.Force,
  }
}

await runAlone(import.meta.url, check)
