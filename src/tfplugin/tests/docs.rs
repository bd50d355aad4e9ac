//! The registry's pages of the example provider.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

#[test]
fn pages_follow_the_registrys_form() {
    let tests = std::env::current_exe().unwrap();
    let binary = tests
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/notes");
    let output = Command::new(binary).arg("docs").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pages: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("==> "))
        .collect();
    assert_eq!(
        pages,
        [
            "data-sources/note.md",
            "index.md",
            "resources/note.md",
            "resources/shelf.md"
        ]
    );
    let page = text.split("==> resources/note.md\n").nth(1).unwrap();
    let page = page.split("\n==> ").next().unwrap();
    for expected in [
        "---\npage_title: \"notes_note Resource - notes\"\nsubcategory: \"\"\ndescription: |-\n  A note.\n---\n",
        "# notes_note (Resource)\n\nA note.\n\nIt is a file.\n",
        "## Example Usage\n\n```terraform\n# resources/notes_note/resource.tf\n```\n",
        "### Required\n\n- `name` (String) Its name. Changing it replaces the resource.\n",
        "### Optional\n\n- `content` (String, Deprecated) The old name of `text`. **Deprecated:** Use text instead.\n",
        "- `keep` (Boolean) Refuses to be deleted. Defaults to `false`.\n",
        "- `labels` (Attributes Map) Its labels. (see [below for nested schema](#nestedatt--labels))\n",
        "- `password_wo` (String, Sensitive, Write-only) Shown to nobody.\n",
        "- `sections` (Map of Map of List of String) Its sections.\n",
        "### Read-Only\n\n- `drift` (List of String) What deviates.\n",
        "<a id=\"nestedatt--shelf\"></a>\n### Nested Schema for `shelf`\n\nRequired:\n\n- `address` (String) Its address.\n",
        "Optional:\n\n- `key` (String) Its key.\n- `port` (Number) Its port. Defaults to `22`.\n",
        "## Import\n\nImport is supported using the following syntax:\n\n```shell\n# resources/notes_note/import.sh\n```\n",
    ] {
        assert!(
            page.contains(expected),
            "{expected:?} is missing in:\n{page}"
        );
    }
}
