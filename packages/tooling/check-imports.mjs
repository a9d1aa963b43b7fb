// @ts-check
// Reads the imports out of source files, with the TypeScript parser, so that comments and strings do not count.
import { readFileSync } from "node:fs"
import ts from "typescript"

/**
 * @typedef {object} Import
 * @property {string} specifier as written
 * @property {number} line from 1
 * @property {boolean} typeOnly gone after compilation
 */

/**
 * Every static, dynamic and type import and re-export of a file.
 * @param {string} path
 * @returns {Import[]}
 */
export function importsOf(path) {
  const source = ts.createSourceFile(path, readFileSync(path, "utf8"), ts.ScriptTarget.Latest, false)
  /** @type {Import[]} */
  const found = []
  /** @param {ts.Node} node */
  const visit = (node) => {
    const { literal, typeOnly } = importIn(node)
    if (literal !== undefined && ts.isStringLiteralLike(literal)) {
      const { line } = source.getLineAndCharacterOfPosition(literal.getStart(source))
      found.push({ specifier: literal.text, line: line + 1, typeOnly })
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

/**
 * The module that a node imports, if it is an import.
 * @param {ts.Node} node
 * @returns {{ literal?: ts.Node | undefined, typeOnly: boolean }}
 */
function importIn(node) {
  if (ts.isImportDeclaration(node)) {
    return { literal: node.moduleSpecifier, typeOnly: node.importClause?.isTypeOnly ?? false }
  }
  if (ts.isExportDeclaration(node)) return { literal: node.moduleSpecifier, typeOnly: node.isTypeOnly }
  if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
    return { literal: node.argument.literal, typeOnly: true }
  }
  if (ts.isCallExpression(node) && (isDynamicImport(node) || isMetaResolve(node))) {
    return { literal: node.arguments[0], typeOnly: false }
  }
  return { typeOnly: false }
}

/** @param {ts.CallExpression} node */
function isDynamicImport(node) {
  return node.expression.kind === ts.SyntaxKind.ImportKeyword
}

/**
 * `import.meta.resolve("package/file")`: what is read or started from there is as needed as what is imported.
 * @param {ts.CallExpression} node
 */
function isMetaResolve({ expression }) {
  return (
    ts.isPropertyAccessExpression(expression) &&
    ts.isMetaProperty(expression.expression) &&
    expression.name.text === "resolve"
  )
}

/**
 * The workspace's npm name that a specifier means, or undefined for anything else.
 * @param {string} specifier
 * @param {Iterable<string>} names npm names of all workspaces
 */
export function workspaceNamed(specifier, names) {
  for (const name of names) if (specifier === name || specifier.startsWith(`${name}/`)) return name
  return undefined
}
