import { describe, expect, it } from "vitest"
import { problem } from "../check-changesets.mjs"

const packages = new Set(["@virtkit/lab", "virtkit"])
const good = '---\n"@virtkit/lab": patch\n"virtkit": minor\n---\n\nIt works.\n'

describe("a changeset", () => {
  it("with packages and words is good", () => {
    expect(problem(good, packages)).toBeUndefined()
  })

  it.each([
    ["made a heading by a formatter", '---\n\n## "@virtkit/lab": patch\n\nIt works.\n', "no front matter"],
    ["with a gap in its front matter", good.replace("---\n", "---\n\n"), 'is not "PACKAGE"'],
    ["with another step", good.replace("minor", "huge"), "huge"],
    ["of a package that is not there", good.replace("@virtkit/lab", "@virtkit/none"), "@virtkit/none"],
    ["without words", good.replace("It works.", ""), "says nothing"],
  ])("%s is not", (_what, text, message) => {
    expect(problem(text, packages)).toContain(message)
  })
})
