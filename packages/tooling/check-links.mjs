// @ts-check
// Links between the project's Markdown files, and to files of the repository, lead somewhere; so do their #anchors. Every
// page below docs/ is linked from another one, and decisions have numbers of their own.
import { existsSync, readFileSync, statSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { markdownFiles, runAlone, shown } from "./check-lib.mjs"

/** @param {string} root */
export function check(root) {
  const files = markdownFiles(root)
  /** @type {string[]} */
  const findings = []
  /** @type {Set<string>} */
  const linked = new Set()
  let count = 0
  for (const file of files) {
    for (const { target, line } of linksIn(readFileSync(file, "utf8"))) {
      count += 1
      const reason = broken(file, target)
      if (reason !== undefined) findings.push(`${shown(root, file)}:${line}: ${reason}`)
      const page = resolve(dirname(file), target.replace(/#.*/, ""))
      if (page !== file) linked.add(page)
    }
  }
  const pages = files.map((file) => shown(root, file)).filter((file) => file.startsWith("docs/"))
  findings.push(
    ...pages.filter((file) => !linked.has(resolve(root, file))).map((file) => `${file}: no page links to it`),
    ...duplicateNumbers(pages),
  )
  return { findings, summary: `${count} links in ${files.length} Markdown files resolve` }
}

/**
 * @param {string[]} pages
 * @returns {string[]}
 */
function duplicateNumbers(pages) {
  const numbers = pages.map((page) => /^docs\/decisions\/(\d+)-/.exec(page)?.[1])
  return pages
    .filter((_, i) => numbers[i] !== undefined && numbers.indexOf(numbers[i]) !== i)
    .map((page) => `${page}: another decision has that number`)
}

/**
 * Links inside the repository, outside code.
 * @param {string} markdown
 * @returns {{ target: string, line: number }[]}
 */
function linksIn(markdown) {
  return withoutCode(markdown).flatMap((text, index) =>
    [...text.matchAll(/\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)|^\[[^\]]+\]:\s*(\S+)/g)]
      .map((match) => ({ target: match[1] ?? match[2] ?? "", line: index + 1 }))
      .filter(({ target }) => !/^[a-z]+:/i.test(target)),
  )
}

/**
 * The lines, those in fenced blocks and spans of code blanked.
 * @param {string} markdown
 */
function withoutCode(markdown) {
  let fenced = false
  return markdown.split("\n").map((line) => {
    const fence = /^\s*(```|~~~)/.test(line)
    if (fence) fenced = !fenced
    return fence || fenced ? "" : line.replace(/`[^`]*`/g, "")
  })
}

/**
 * Why a link leads nowhere, or undefined.
 * @param {string} file
 * @param {string} target
 */
function broken(file, target) {
  const [path = "", anchor] = target.split("#")
  if (path.startsWith("/")) return `${target} is not relative`
  const destination = path === "" ? file : resolve(dirname(file), decodeURIComponent(path))
  if (!existsSync(destination)) return `${target} does not exist`
  if (anchor === undefined || statSync(destination).isDirectory() || !destination.endsWith(".md"))
    return undefined
  return anchors(readFileSync(destination, "utf8")).has(anchor) ? undefined : `no heading for ${target}`
}

/**
 * The anchors that headings get on the web.
 * @param {string} markdown
 * @returns {Set<string>}
 */
function anchors(markdown) {
  /** @type {Set<string>} */
  const found = new Set()
  let fenced = false
  for (const line of markdown.split("\n")) {
    if (/^\s*(```|~~~)/.test(line)) fenced = !fenced
    const heading = fenced ? null : /^#{1,6}\s+(.*?)\s*#*$/.exec(line)
    if (heading === null) continue
    const slug = (heading[1] ?? "")
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, "")
      .replace(/\s/g, "-")
    let unique = slug
    for (let n = 1; found.has(unique); n++) unique = `${slug}-${n}`
    found.add(unique)
  }
  return found
}

await runAlone(import.meta.url, check)
