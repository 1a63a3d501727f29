# From `cargo metadata` to a CycloneDX bill of materials: the crates that the binary is made of, and which needs which.
# $lock: Cargo.lock. $time: when the release was made.

# The checksums of Cargo.lock, by "name version".
def checksums:
  [$lock | scan("name = \"(.*)\"\nversion = \"(.*)\"\nsource = \".*\"\nchecksum = \"(.*)\"") | {key: "\(.[0]) \(.[1])", value: .[2]}]
  | from_entries;

def component($type):
  { type: $type, "bom-ref": "pkg:cargo/\(.name)@\(.version)", name, version, purl: "pkg:cargo/\(.name)@\(.version)" }
  # Old manifests have a slash for OR.
  + if .license then { licenses: [{ expression: .license | gsub(" ?/ ?"; " OR ") }] } else {} end
  + if .repository then { externalReferences: [{ type: "vcs", url: .repository }] } else {} end;

checksums as $checksums
| (.packages | map({ key: .id, value: . }) | from_entries) as $packages
# What only builds or tests is not in the binary.
| (.resolve.nodes
    | map({ key: .id, value: [.deps[] | select(any(.dep_kinds[]; .kind == null)) | .pkg] })
    | from_entries) as $needs
| .resolve.root as $root
| { seen: [], next: [$root] }
| until(.next == [];
    .seen += .next
    | .seen as $seen
    | .next |= ([.[] | $needs[.][]] | unique | map(select(IN($seen[]) | not))))
| .seen | sort_by($packages[.].name) as $all
| {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: { timestamp: $time, component: ($packages[$root] | component("application")) },
    components: [
      $all[] | select(. != $root) | $packages[.]
      | component("library") + { hashes: [{ alg: "SHA-256", content: $checksums["\(.name) \(.version)"] }] }
    ],
    dependencies: [
      $all[] | { ref: ($packages[.] | component("")["bom-ref"]), dependsOn: [$needs[.][] | $packages[.] | component("")["bom-ref"]] | unique }
    ]
  }
