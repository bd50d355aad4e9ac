//! The registry's documentation, from the same declarations as the schemas.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Value;
use crate::registry::Registry;
use crate::schema::{Attribute, Object, Presence, Type};

/// All pages, by their path below `docs/`.
pub fn render(
    address: &str,
    registry: &Registry,
    example: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let provider = address.rsplit('/').next().unwrap_or(address);
    let short = |name: &str| {
        let name = name
            .strip_prefix(provider)
            .and_then(|rest| rest.strip_prefix('_'))
            .unwrap_or(name);
        name.to_owned()
    };
    let mut pages = BTreeMap::new();
    let page = Page {
        title: format!("{provider} Provider"),
        heading: format!("{provider} Provider"),
        object: &registry.provider.schema().object,
        usage: example("provider/provider.tf"),
        import: None,
    };
    pages.insert("index.md".to_owned(), page.render());
    for (name, resource) in &registry.resources {
        let page = Page {
            title: format!("{name} Resource - {provider}"),
            heading: format!("{name} (Resource)"),
            object: &resource.schema().object,
            usage: example(&format!("resources/{name}/resource.tf")),
            import: example(&format!("resources/{name}/import.sh")),
        };
        pages.insert(format!("resources/{}.md", short(name)), page.render());
    }
    for (name, source) in &registry.data_sources {
        let page = Page {
            title: format!("{name} Data Source - {provider}"),
            heading: format!("{name} (Data Source)"),
            object: &source.schema().object,
            usage: example(&format!("data-sources/{name}/data-source.tf")),
            import: None,
        };
        pages.insert(format!("data-sources/{}.md", short(name)), page.render());
    }
    pages
}

struct Page<'s> {
    title: String,
    heading: String,
    object: &'s Object,
    usage: Option<String>,
    import: Option<String>,
}

impl Page<'_> {
    fn render(&self) -> String {
        let Self {
            title,
            heading,
            object,
            ..
        } = self;
        let summary = object.description.split("\n\n").next().unwrap_or_default();
        let summary = summary.replace('\n', " ");
        let mut text = format!(
            "---\npage_title: \"{title}\"\nsubcategory: \"\"\ndescription: |-\n  {summary}\n---\n\n\
             # {heading}\n\n{}\n",
            object.description
        );
        if let Some(usage) = &self.usage {
            let _infallible = write!(
                text,
                "\n## Example Usage\n\n```terraform\n{}\n```\n",
                usage.trim()
            );
        }
        text += "\n## Schema\n";
        let mut nested = Vec::new();
        write_groups(&mut text, object, "### ", "", &mut nested);
        while !nested.is_empty() {
            let mut deeper = Vec::new();
            for (name, object) in nested {
                let anchor = anchor(&name);
                let _infallible = write!(
                    text,
                    "\n<a id=\"{anchor}\"></a>\n### Nested Schema for `{name}`\n"
                );
                write_groups(&mut text, object, "", &format!("{name}."), &mut deeper);
            }
            nested = deeper;
        }
        if let Some(import) = &self.import {
            let _infallible = write!(
                text,
                "\n## Import\n\nImport is supported using the following syntax:\n\n```shell\n{}\n```\n",
                import.trim()
            );
        }
        text
    }
}

fn anchor(name: &str) -> String {
    format!("nestedatt--{}", name.replace('.', "--"))
}

/// Writes an object's attributes by who sets them, and notes the objects nested in it.
fn write_groups<'s>(
    text: &mut String,
    object: &'s Object,
    heading: &str,
    prefix: &str,
    nested: &mut Vec<(String, &'s Object)>,
) {
    let groups = [
        ("Required", &[Presence::Required][..]),
        (
            "Optional",
            &[Presence::Optional, Presence::OptionalComputed],
        ),
        ("Read-Only", &[Presence::Computed]),
    ];
    for (title, presences) in groups {
        let of_group = |attribute: &&Attribute| presences.contains(&attribute.presence);
        let mut attributes: Vec<_> = object.attributes.iter().filter(of_group).collect();
        if attributes.is_empty() {
            continue;
        }
        attributes.sort_by_key(|attribute| &attribute.name);
        let colon = if heading.is_empty() { ":" } else { "" };
        // Writing into a String can't fail.
        let _infallible = write!(text, "\n{heading}{title}{colon}\n\n");
        for attribute in attributes {
            let name = format!("{prefix}{}", attribute.name);
            text.push_str(&bullet(attribute, &name));
            if let Some((object, _)) = attribute.kind.nested() {
                nested.push((name, object));
            }
        }
    }
}

fn bullet(attribute: &Attribute, full_name: &str) -> String {
    let mut kind = type_name(&attribute.kind);
    let marks = [
        (attribute.sensitive, ", Sensitive"),
        (attribute.write_only, ", Write-only"),
        (attribute.deprecated.is_some(), ", Deprecated"),
    ];
    for (_, mark) in marks.into_iter().filter(|(applies, _)| *applies) {
        kind += mark;
    }
    // Markdown continues a list item in an indented block.
    let mut text = attribute
        .description
        .replace('\n', "\n  ")
        .replace("\n  \n", "\n\n");
    if let Some(instead) = &attribute.deprecated {
        text = format!("{text} **Deprecated:** {instead}");
    }
    if let Some(default) = attribute.default.as_ref().and_then(literal) {
        text = format!("{text} Defaults to `{default}`.");
    }
    if attribute.replace {
        text += " Changing it replaces the resource.";
    }
    if attribute.kind.nested().is_some() {
        text = format!(
            "{text} (see [below for nested schema](#{}))",
            anchor(full_name)
        );
    }
    format!("- `{}` ({kind}) {text}\n", attribute.name)
}

fn type_name(kind: &Type) -> String {
    let collection = |name: &str, inner: &Type| match inner {
        Type::Object(_) => format!("Attributes {name}"),
        other => format!("{name} of {}", type_name(other)),
    };
    match kind {
        Type::Bool => "Boolean".to_owned(),
        Type::Number => "Number".to_owned(),
        Type::String => "String".to_owned(),
        Type::Object(_) => "Attributes".to_owned(),
        Type::List(inner) => collection("List", inner),
        Type::Set(inner) => collection("Set", inner),
        Type::Map(inner) => collection("Map", inner),
    }
}

/// A default as it would be written in a configuration; nothing for objects, whose attributes say it.
fn literal(value: &Value) -> Option<String> {
    match value {
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::String(text) => Some(format!("{text:?}")),
        Value::List(items) => {
            let items: Option<Vec<_>> = items.iter().map(literal).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Value::Null | Value::Unknown | Value::Object(_) => None,
    }
}
