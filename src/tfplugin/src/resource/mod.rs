//! Managed resources.

pub(crate) mod erased;
pub(crate) mod planning;
pub(crate) mod stored;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Context, Diagnostics, Model, Path};

/// A managed resource. Every operation runs on its own task; a panic becomes a diagnostic.
pub trait Resource: Send + Sync + Sized + 'static {
    /// Its attributes.
    type Model: Model;

    /// What the provider keeps in the state beside the attributes and never shows; `()` for nothing.
    type Private: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static;

    /// The full type name, such as `nspawn_host`.
    const NAME: &'static str;

    /// The schema's version; raise it together with a new branch in [`Self::upgrade`]. New optional
    /// or computed attributes, and removed ones, need none.
    const VERSION: i64 = 0;

    /// Checks what single attributes can't (conflicts, exactly one of); values may be unknown.
    fn validate(&self, _config: &Self::Model, _diagnostics: &mut Diagnostics) {}

    /// Adjusts the framework's plan of a create or update; see [`Plan`].
    fn plan(
        &self,
        _plan: &mut Plan<Self>,
        _context: &Context,
    ) -> impl Future<Output = Result<(), Diagnostics>> + Send {
        async { Ok(()) }
    }

    /// Called when a destroy is planned; an error refuses it (delete protection).
    fn plan_destroy(
        &self,
        _prior: &State<Self>,
        _context: &Context,
    ) -> impl Future<Output = Result<(), Diagnostics>> + Send {
        async { Ok(()) }
    }

    /// Makes it. The state's model has to be what was planned, with everything unknown filled in.
    fn create(
        &self,
        request: Create<Self>,
        context: &Context,
    ) -> impl Future<Output = Result<State<Self>, Failed<Self>>> + Send;

    /// Looks at it; `None` when it is gone. An error keeps the state.
    fn read(
        &self,
        state: State<Self>,
        context: &Context,
    ) -> impl Future<Output = Result<Option<State<Self>>, Diagnostics>> + Send;

    /// Changes it.
    fn update(
        &self,
        request: Update<Self>,
        context: &Context,
    ) -> impl Future<Output = Result<State<Self>, Failed<Self>>> + Send;

    /// Removes it. After an error the state is kept: the partial one, or the prior one.
    fn delete(
        &self,
        state: State<Self>,
        context: &Context,
    ) -> impl Future<Output = Result<(), Failed<Self>>> + Send;

    /// Finds it by the id given to `terraform import`; a read follows.
    fn import(
        &self,
        _id: &str,
        _context: &Context,
    ) -> impl Future<Output = Result<State<Self>, Diagnostics>> + Send {
        async {
            let detail = format!("{} can't be imported.", Self::NAME);
            Err(Diagnostics::error("Import not supported", detail))
        }
    }

    /// Brings the state of an older schema version up to [`Self::VERSION`].
    fn upgrade(
        &self,
        _from: i64,
        state: serde_json::Value,
    ) -> Result<serde_json::Value, Diagnostics> {
        Ok(state)
    }
}

/// A resource as the state holds it.
pub struct State<R: Resource> {
    /// The attributes.
    pub model: R::Model,
    /// The provider's own part.
    pub private: R::Private,
}

impl<R: Resource> State<R> {
    /// Puts the two parts together.
    pub fn new(model: R::Model, private: R::Private) -> Self {
        Self { model, private }
    }
}

impl<R: Resource> Clone for State<R> {
    fn clone(&self) -> Self {
        Self {
            model: self.model.clone(),
            private: self.private.clone(),
        }
    }
}

/// The plan of a create or update, as the framework made it, for [`Resource::plan`] to adjust.
///
/// `planned` holds configured values, defaults, prior values of computed attributes (unknown on
/// create), and null for write-only attributes. What the hook may change: computed attributes, to
/// another value or to [`Attr::Unknown`](crate::Attr::Unknown). Terraform refuses a plan in which a
/// configured value differs.
pub struct Plan<R: Resource> {
    /// The state before; `None` when it will be created.
    pub prior: Option<R::Model>,
    /// What the user wrote, write-only attributes included.
    pub config: R::Model,
    /// What it will be.
    pub planned: R::Model,
    /// The provider's own part, as it goes to create or update.
    pub private: R::Private,
    pub(crate) changed: bool,
    pub(crate) requires_replace: Vec<Path>,
}

impl<R: Resource> Plan<R> {
    /// Whether it will be made for the first time (also the second half of a replacement).
    pub fn is_create(&self) -> bool {
        self.prior.is_none()
    }

    /// Whether the framework's plan differs from the prior state. In a plan without a change, leave
    /// computed attributes as they are, or every plan shows one.
    pub fn has_changes(&self) -> bool {
        self.changed
    }

    /// Whether an attribute whose change replaces the resource has changed.
    pub fn is_replace(&self) -> bool {
        !self.requires_replace.is_empty()
    }

    /// Has the change of this attribute replace the resource.
    pub fn require_replace(&mut self, path: Path) {
        self.requires_replace.push(path);
    }
}

/// What a create is given.
pub struct Create<R: Resource> {
    /// What it is to be; unknown where create decides.
    pub planned: R::Model,
    /// What the user wrote, write-only attributes included.
    pub config: R::Model,
    /// The provider's own part, from the plan.
    pub private: R::Private,
}

/// What an update is given.
pub struct Update<R: Resource> {
    /// The state before.
    pub prior: R::Model,
    /// What it is to be; unknown where update decides.
    pub planned: R::Model,
    /// What the user wrote, write-only attributes included.
    pub config: R::Model,
    /// The provider's own part, from the plan.
    pub private: R::Private,
}

/// An operation that failed, and what exists nevertheless.
pub struct Failed<R: Resource> {
    /// What exists. After a create: `None` when nothing was made; `Some` puts it into the state as
    /// tainted. After an update or delete: `None` keeps the prior state.
    pub partial: Option<State<R>>,
    /// Why.
    pub diagnostics: Diagnostics,
}

impl<R: Resource> Failed<R> {
    /// A failure that left something behind. Attributes still unknown are stored as null.
    pub fn with_partial(state: State<R>, diagnostics: impl Into<Diagnostics>) -> Self {
        Self {
            partial: Some(state),
            diagnostics: diagnostics.into(),
        }
    }
}

impl<R: Resource> From<Diagnostics> for Failed<R> {
    fn from(diagnostics: Diagnostics) -> Self {
        Self {
            partial: None,
            diagnostics,
        }
    }
}
