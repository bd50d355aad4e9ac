//! The attributes.

use std::collections::BTreeMap;
use std::str::FromStr;

use tfplugin::schema::validators::{between, not_empty, one_of};
use tfplugin::{Attr, Parsed, Secret, Timeouts};

tfplugin::model! {
    /// Keeps notes in a folder.
    pub struct Settings {
        /// The folder.
        folder: Attr<String> => required(),
        /// What the notes end in.
        suffix: Attr<String> => optional().default(".note"),
    }

    /// How a shelf is reached.
    pub struct Shelf {
        /// Its address.
        address: Attr<String> => required(),
        /// Its port.
        port: Attr<i64> => optional().default(22).validate(between(1..=65535)),
        /// Its user.
        user: Attr<String> => optional().default("root"),
        /// Its key.
        key: Attr<String> => optional(),
    }

    /// A label on a note.
    pub struct Label {
        /// Its colour.
        color: Attr<String> => optional().default("red").validate(one_of(&["red", "blue"])),
        /// How heavy it is.
        weight: Attr<f64> => optional(),
        /// When it was put on.
        stamp: Attr<String> => optional().computed(),
    }

    /// A note.
    ///
    /// It is a file.
    pub struct Note {
        /// Its name.
        name: Attr<String> => required().replace().validate(not_empty),
        /// What it says.
        text: Attr<String> => optional().default(""),
        /// Which shelf it stands on.
        shelf: Attr<Shelf> => optional(),
        /// Its size.
        size: Attr<Parsed<Size>> => optional().same_when(|left, right| left.0 == right.0),
        /// Its labels.
        labels: Attr<BTreeMap<String, Label>> => optional(),
        /// Its pages.
        pages: Attr<Vec<Label>> => optional(),
        /// Its lines.
        lines: Attr<Vec<String>> => optional(),
        /// Its sections.
        sections: Attr<BTreeMap<String, BTreeMap<String, Vec<String>>>> => optional(),
        /// Shown to nobody.
        password_wo: Attr<Secret> => optional().write_only().sensitive(),
        /// The old name of `text`.
        content: Attr<String> => optional().deprecated("Use text instead."),
        /// Refuses to be deleted.
        keep: Attr<bool> => optional().default(false),
        /// How long things may take.
        timeouts: Attr<Timeouts> => optional(),
        /// Where it lies.
        id: Attr<String> => computed(),
        /// How often it was written.
        revision: Attr<i64> => computed().unknown_on_update(),
        /// How long the password is.
        password_length: Attr<i64> => computed().unknown_on_update(),
        /// What deviates.
        drift: Attr<Vec<String>> => computed().planned_empty(),
    }

    /// A shelf, as a resource; a note takes it whole: `shelf = notes_shelf.x`.
    pub struct ShelfThing {
        /// Its address.
        address: Attr<String> => required(),
        /// Its port.
        port: Attr<i64> => optional().default(22),
        /// Its user.
        user: Attr<String> => optional().default("root"),
        /// Its key.
        key: Attr<String> => optional(),
        /// What else the note has no use for.
        id: Attr<String> => computed(),
    }

    /// Reads a note.
    pub struct NoteSource {
        /// Its name.
        name: Attr<String> => required(),
        /// What it says.
        text: Attr<String> => computed(),
    }
}

/// A number of kilobytes: `2K`.
#[derive(Clone, Debug, PartialEq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('K').map(|digits| digits.parse().ok());
        let wrong = || format!("{text:?} is not a size such as \"2K\"");
        digits.flatten().map(Self).ok_or_else(wrong)
    }
}
