/* Copies the libraries from node_modules into vendor/, with their licences and checksums.
 *
 *     cd flamec/cli/page && npm ci --ignore-scripts && npm run vendor
 *
 * To take another version, change package.json and run `npm install` in place of `npm ci`. Packages
 * without files are inside of another's file; they are installed for their licences. */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename } from "node:path";

const FILES = {
  cytoscape: { files: ["dist/cytoscape.min.js"], licence: "LICENSE", source: "dist/cytoscape.cjs.js" },
  lodash: { files: [], inside: "cytoscape.min.js", licence: "LICENSE" },
  heap: { files: [], inside: "cytoscape.min.js", licence: "LICENSE" },
  "@dagrejs/dagre": { files: ["dist/dagre.min.js"], licence: "LICENSE" },
  "@dagrejs/graphlib": { files: [], inside: "dagre.min.js", licence: "LICENSE" },
  prismjs: {
    files: ["prism-core", "prism-clike", "prism-c", "prism-python"].map((name) => `components/${name}.min.js`),
    licence: "LICENSE",
  },
};
/* Comments that name a licence; a minifier may have dropped them. */
function noticesIn(text) {
  const comments = [...text.matchAll(/\/\*!([\s\S]*?)\*\//g)].map((match) => match[1]);
  return comments.filter((comment) => /licen[cs]e/i.test(comment)).map((comment) => comment.replace(/^ \* /gm, "").trim());
}

mkdirSync("vendor", { recursive: true });
const manifest = {};
let notices = "# Third-party software in this folder\n\nMade by `vendor.mjs`; inserted unchanged into the pages of `flamec dump --html`.\n";
for (const [name, { files, inside, licence, source }] of Object.entries(FILES)) {
  const folder = `node_modules/${name}`;
  const about = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  notices += `\n## ${name} ${about.version} (${about.license})\n\n`;
  notices += inside ? `Part of ${inside}\n\n` : `Files: ${files.map((file) => basename(file)).join(", ")}\n\n`;
  notices += "```\n" + readFileSync(`${folder}/${licence}`, "utf8").trim() + "\n```\n";
  const parts = source ? noticesIn(readFileSync(`${folder}/${source}`, "utf8")) : [];
  if (parts.length) notices += "\nParts of it are by others, under the MIT licence, whose terms are those above:\n";
  for (const part of parts) notices += "\n```\n" + part + "\n```\n";
  for (const file of files) {
    const text = readFileSync(`${folder}/${file}`, "utf8").replace(/\n?\/\/# sourceMappingURL=.*\s*$/, "\n");
    writeFileSync(`vendor/${basename(file)}`, text);
    manifest[basename(file)] = {
      package: name,
      version: about.version,
      licence: about.license,
      sha256: createHash("sha256").update(text).digest("hex"),
    };
  }
}
writeFileSync("vendor/manifest.json", JSON.stringify(manifest, null, 2) + "\n");
writeFileSync("vendor/THIRD_PARTY.md", notices);
