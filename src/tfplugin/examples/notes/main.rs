//! A provider that keeps notes as files in a folder: what a resource looks like, and what the tests
//! drive through Terraform and through a client of their own.
//!
//! A note's `text` can ask for trouble: `panic`, `fail`, `slow` (until it is cancelled), `break`
//! (a result other than planned).

mod model;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tfplugin::{
    Context, Create, DataSource, Diagnostics, Failed, Plan, Provider, Resource, Server, State,
    Update, path,
};

use model::{Label, Note, NoteSource, Settings, ShelfThing};

/// The hidden part of a note's state.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Private {
    token: String,
}

#[derive(Clone, Default)]
struct Folder(Arc<OnceLock<(PathBuf, String)>>);

impl Folder {
    fn file(&self, name: &str) -> Result<PathBuf, Diagnostics> {
        let (folder, suffix) = self.0.get().ok_or_else(|| {
            Diagnostics::error("Not configured", "The provider's folder is not known yet.")
        })?;
        Ok(folder.join(format!("{name}{suffix}")))
    }
}

/// The bug that the tests look for.
fn panic_if(asked: bool) {
    assert!(!asked, "asked to panic");
}

fn failed(what: &str, error: &std::io::Error) -> Diagnostics {
    Diagnostics::error(format!("{what} failed"), error.to_string())
}

struct Notes(Folder);

impl Provider for Notes {
    type Config = Settings;

    async fn configure(&self, config: Settings, _context: &Context) -> Result<(), Diagnostics> {
        panic_if(config.folder.as_deref() == Some("panic"));
        if let (Some(folder), Some(suffix)) = (config.folder.as_deref(), config.suffix.as_deref()) {
            let _ = self.0.0.set((folder.into(), suffix.to_owned()));
        }
        Ok(())
    }

    async fn shutdown(&self) {
        if let Some((folder, _)) = self.0.0.get() {
            let _ = std::fs::write(folder.join("shutdown"), "orderly");
        }
    }
}

struct NoteResource(Folder);

impl NoteResource {
    async fn write(
        &self,
        mut note: Note,
        config: Note,
        mut private: Private,
        context: &Context,
    ) -> Result<State<Self>, Failed<Self>> {
        let file = self.0.file(note.name.require(path!("name"))?)?;
        let text = note.text.known_or(String::new());
        panic_if(text == "panic");
        match text.as_str() {
            "fail" => return Err(Diagnostics::error("Asked to fail", "The text says so.").into()),
            "slow" => {
                tracing::info!(note = %file.display(), "waiting to be cancelled");
                context.cancelled().await;
                note.id = file.display().to_string().into();
                let state = State::new(note, private);
                return Err(Failed::with_partial(
                    state,
                    Diagnostics::error("Interrupted", "Half done."),
                ));
            }
            "break" => note.keep = true.into(),
            _ => {}
        }
        std::fs::write(&file, &text).map_err(|error| failed("Writing", &error))?;
        tracing::info!(note = %file.display(), "written");
        note.id = file.display().to_string().into();
        note.revision = (note.revision.known_or(0) + 1).into();
        note.password_length = config
            .password_wo
            .map(|password| i64::try_from(password.expose().len()).unwrap_or_default());
        for label in note
            .labels
            .known_mut()
            .into_iter()
            .flat_map(BTreeMap::values_mut)
        {
            stamp(label);
        }
        for page in note.pages.known_mut().into_iter().flatten() {
            stamp(page);
        }
        private.token = "secret token".into();
        Ok(State::new(note, private))
    }
}

fn stamp(label: &mut Label) {
    if label.stamp.is_unknown() {
        label.stamp = "today".into();
    }
}

impl Resource for NoteResource {
    type Model = Note;
    type Private = Private;
    const NAME: &'static str = "notes_note";
    const VERSION: i64 = 2;

    fn validate(&self, config: &Note, diagnostics: &mut Diagnostics) {
        panic_if(config.name.as_deref() == Some("panic-validate"));
        if config.name.as_deref() == Some("forbidden") {
            diagnostics.add_error_at(path!("shelf", "port"), "Forbidden name", "Take another.");
        }
    }

    async fn plan(&self, plan: &mut Plan<Self>, context: &Context) -> Result<(), Diagnostics> {
        panic_if(plan.planned.name.as_deref() == Some("panic-plan"));
        if plan.has_changes() && !plan.is_create() {
            context.warn(
                format!("{:?} is rewritten", plan.planned.name.known()),
                "It takes a while.",
            );
        }
        Ok(())
    }

    async fn plan_destroy(&self, prior: &State<Self>, _: &Context) -> Result<(), Diagnostics> {
        if prior.model.keep.known_or(false) {
            return Err(Diagnostics::error_at(
                path!("keep"),
                "Kept",
                "Set keep to false first.",
            ));
        }
        Ok(())
    }

    async fn create(
        &self,
        request: Create<Self>,
        context: &Context,
    ) -> Result<State<Self>, Failed<Self>> {
        self.write(request.planned, request.config, request.private, context)
            .await
    }

    async fn read(
        &self,
        mut state: State<Self>,
        _context: &Context,
    ) -> Result<Option<State<Self>>, Diagnostics> {
        let name = state.model.name.require(path!("name"))?;
        panic_if(name == "panic-read");
        let file = self.0.file(name)?;
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                if state.model.text.is_known() && state.model.text.as_deref() != Some(&text) {
                    state.model.drift = vec!["the text was changed".to_owned()].into();
                }
                state.model.id = file.display().to_string().into();
                state.model.text = text.into();
                state.model.keep = state.model.keep.known_or(false).into();
                Ok(Some(state))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("Reading", &error)),
        }
    }

    async fn update(
        &self,
        request: Update<Self>,
        context: &Context,
    ) -> Result<State<Self>, Failed<Self>> {
        let mut planned = request.planned;
        planned.revision = request.prior.revision;
        self.write(planned, request.config, request.private, context)
            .await
    }

    async fn delete(&self, state: State<Self>, _context: &Context) -> Result<(), Failed<Self>> {
        let name = state.model.name.require(path!("name"))?;
        panic_if(name == "panic-delete");
        if name == "fail-delete" {
            return Err(Diagnostics::error("Asked to fail", "Still there.").into());
        }
        std::fs::remove_file(self.0.file(name)?).map_err(|error| failed("Deleting", &error).into())
    }

    async fn import(&self, id: &str, _context: &Context) -> Result<State<Self>, Diagnostics> {
        panic_if(id == "panic");
        Ok(State::new(
            Note {
                name: id.into(),
                ..Note::default()
            },
            Private::default(),
        ))
    }

    fn upgrade(
        &self,
        from: i64,
        mut state: serde_json::Value,
    ) -> Result<serde_json::Value, Diagnostics> {
        if from == 1
            && let Some(fields) = state.as_object_mut()
        {
            // Version 1 called the text "body".
            let body = fields.remove("body").unwrap_or_default();
            panic_if(body == "panic");
            fields.insert("text".into(), body);
        }
        Ok(state)
    }
}

struct ShelfResource;

impl Resource for ShelfResource {
    type Model = ShelfThing;
    type Private = ();
    const NAME: &'static str = "notes_shelf";

    async fn create(
        &self,
        request: Create<Self>,
        _context: &Context,
    ) -> Result<State<Self>, Failed<Self>> {
        Ok(State::new(
            ShelfThing {
                id: "shelf".into(),
                ..request.planned
            },
            (),
        ))
    }

    async fn read(
        &self,
        state: State<Self>,
        _context: &Context,
    ) -> Result<Option<State<Self>>, Diagnostics> {
        Ok(Some(state))
    }

    async fn update(
        &self,
        request: Update<Self>,
        _context: &Context,
    ) -> Result<State<Self>, Failed<Self>> {
        Ok(State::new(request.planned, ()))
    }

    async fn delete(&self, _state: State<Self>, _context: &Context) -> Result<(), Failed<Self>> {
        Ok(())
    }
}

struct NoteReader(Folder);

impl DataSource for NoteReader {
    type Model = NoteSource;
    const NAME: &'static str = "notes_note";

    async fn read(
        &self,
        mut config: NoteSource,
        _context: &Context,
    ) -> Result<NoteSource, Diagnostics> {
        let name = config.name.require(path!("name"))?;
        panic_if(name == "panic");
        let text = std::fs::read_to_string(self.0.file(name)?);
        config.text = text.map_err(|error| failed("Reading", &error))?.into();
        Ok(config)
    }
}

fn main() -> ExitCode {
    let folder = Folder::default();
    let server = Server::new(
        "registry.terraform.io/example/notes",
        "1.2.3",
        Notes(folder.clone()),
    )
    .resource(NoteResource(folder.clone()))
    .resource(ShelfResource)
    .data_source(NoteReader(folder));
    if std::env::args().nth(1).as_deref() == Some("docs") {
        for (path, page) in server.documentation(|path| Some(format!("# {path}"))) {
            println!("==> {path}\n{page}");
        }
        return ExitCode::SUCCESS;
    }
    server.serve()
}
