//! The one way to make things so: observe, plan, perform, and look again.
//!
//! Runs for every change, at boot, after a carrier loss, and after a crash at any step.

use protocol::{
    Failure, FailureKind,
    desired::{Address, ObjectKey},
    name::{ImageName, MachineName},
    observed::Facts,
};

use crate::{
    address, container,
    context::Context,
    filter, guest, host, image, left_over,
    store::{Inventory, Stored},
    system::netlink::Network,
};

/// What a reconcile looks after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// The host itself.
    Host,
    /// One image.
    Image(ImageName),
    /// One container and its addresses.
    Container(MachineName),
    /// One address, in its canonical form.
    Address(String),
}

impl Scope {
    /// Whether the host itself is looked after.
    pub fn has_host(&self) -> bool {
        matches!(self, Self::All | Self::Host)
    }

    /// Whether this container's unit and files are looked after.
    pub fn has_container(&self, name: &MachineName) -> bool {
        matches!(self, Self::All) || matches!(self, Self::Container(container) if container == name)
    }

    /// Whether the port of this container is looked after. A change of one container must not wait
    /// for the ports of others that are just starting: their own changes, and the resident, see to those.
    pub fn has_port(&self, name: &MachineName) -> bool {
        matches!(self, Self::Host) || self.has_container(name)
    }

    /// Whether this address is looked after.
    pub fn has_address(&self, stored: &Stored<Address>) -> bool {
        match self {
            Self::All => true,
            Self::Address(address) => *address == stored.desired.address.canonical(),
            Self::Container(container) => *container == stored.desired.container,
            Self::Host | Self::Image(_) => false,
        }
    }
}

impl From<ObjectKey> for Scope {
    fn from(key: ObjectKey) -> Self {
        match key {
            ObjectKey::Host => Self::Host,
            ObjectKey::Image(name) => Self::Image(name),
            ObjectKey::Container(name) => Self::Container(name),
            ObjectKey::Address(address) => Self::Address(address),
        }
    }
}

/// How the host is: everything that planning and a snapshot need.
#[derive(Debug, Clone)]
pub struct Observation {
    /// What the machine is.
    pub facts: Facts,
    /// Links, addresses, routes and neighbours.
    pub network: Network,
    /// Sysctls, files and the service.
    pub host: host::Observed,
    /// The filter table.
    pub filter: filter::Observed,
    /// Images.
    pub images: image::Observed,
    /// Containers.
    pub containers: container::Observed,
    /// The network of running guests, and the files they get.
    pub guests: guest::network::Observed,
}

/// One step, as data.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Of the host itself.
    Host(host::Step),
    /// Of the filter table.
    Filter(filter::Step),
    /// Of an image.
    Image(image::Step),
    /// Of a container.
    Container(container::Step),
    /// Of an address.
    Address(address::Step),
}

impl Step {
    /// Whether it only follows from a guest that has stopped: what it removes bears our mark, and nobody puts it back.
    pub fn follows_a_stop(&self) -> bool {
        matches!(self, Self::Filter(filter::Step::DeleteNeighbour { .. }))
    }

    /// Whether it puts on the host what a container is started with.
    pub fn shapes_a_start(&self) -> bool {
        use container::Step;
        matches!(
            self,
            Self::Container(
                Step::MakeFolder(_)
                    | Step::WriteSettings(..)
                    | Step::WriteDropIn(..)
                    | Step::RefreshUnits(_)
            )
        )
    }
}

/// Looks at the host.
pub async fn observe(
    context: &Context,
    inventory: &Inventory,
    scope: &Scope,
) -> Result<Observation, Failure> {
    let network = Network::dump(&context.netlink).await?;
    let facts = host::facts::gather(context, &network).await?;
    let containers = container::observe(context, inventory, scope).await?;
    Ok(Observation {
        host: host::observe(context, inventory, &network).await?,
        filter: filter::observe(context).await?,
        images: image::observe(context, inventory, scope).await?,
        guests: guest::network::observe(context, inventory, &containers, scope).await?,
        containers,
        facts,
        network,
    })
}

/// What has to be done, in order.
pub fn plan(inventory: &Inventory, observed: &Observation, scope: &Scope) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(
        host::plan::plan(inventory, observed, scope)
            .into_iter()
            .map(Step::Host),
    );
    // A container that starts finds its port allowed already.
    steps.extend(
        filter::plan::plan(inventory, observed, scope)
            .into_iter()
            .map(Step::Filter),
    );
    steps.extend(
        image::plan(inventory, observed, scope)
            .into_iter()
            .map(Step::Image),
    );
    steps.extend(
        address::plan::plan(inventory, observed, scope)
            .into_iter()
            .map(Step::Address),
    );
    steps.extend(
        container::plan(inventory, observed, scope)
            .into_iter()
            .map(Step::Container),
    );
    steps
}

async fn perform(context: &Context, step: &Step) -> Result<(), Failure> {
    match step {
        Step::Host(step) => host::perform(context, step).await,
        Step::Filter(step) => filter::perform(context, step).await,
        Step::Image(step) => image::perform(context, step).await,
        Step::Container(step) => container::perform(context, step).await,
        Step::Address(step) => address::perform(context, step).await,
    }
}

/// What was wrong before a step.
fn sentence(step: &Step, inventory: &Inventory, observed: &Observation) -> String {
    match step {
        Step::Host(step) => host::sentence(step, inventory, observed),
        Step::Filter(step) => filter::sentence(step),
        Step::Address(step) => address::sentence(step, observed),
        Step::Image(step) => image::sentence(step),
        Step::Container(step) => container::sentence(step),
    }
}

/// How often the host is looked at in a row: starting a guest brings up a port, which needs steps
/// of its own.
pub const ROUNDS: usize = 4;

/// How the host is, and what has to be done.
pub struct Look {
    inventory: Inventory,
    /// What was seen.
    pub observed: Observation,
    /// What has to be done, in order.
    pub steps: Vec<Step>,
}

/// A step that was tried.
pub struct Tried {
    /// The step.
    pub step: Step,
    /// What was wrong before it.
    pub sentence: String,
    /// How it ended.
    pub result: Result<(), Failure>,
}

/// Looks at the host and plans.
pub async fn look(context: &Context, scope: &Scope) -> Result<Look, Failure> {
    let inventory = context.store.inventory()?;
    let observed = observe(context, &inventory, scope).await?;
    let steps = plan(&inventory, &observed, scope);
    Ok(Look {
        inventory,
        observed,
        steps,
    })
}

impl Look {
    /// Does the steps that may be done; one that fails doesn't keep the others from being done.
    pub async fn act(
        &self,
        context: &Context,
        may: impl Fn(&Step) -> bool,
    ) -> Result<Vec<Tried>, Failure> {
        let mut tried = Vec::new();
        for step in self.steps.iter().filter(|step| may(step)) {
            context.check()?;
            let sentence = sentence(step, &self.inventory, &self.observed);
            fault::point(|| format!("before: {sentence}"));
            tried.push(Tried {
                step: step.clone(),
                sentence,
                result: perform(context, step).await,
            });
        }
        Ok(tried)
    }

    /// What is wrong, told to a person.
    fn sentences(&self) -> Vec<String> {
        let told = |step| sentence(step, &self.inventory, &self.observed);
        self.steps.iter().map(told).collect()
    }

    /// The objects that are wanted.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }
}

/// Makes it so. The host's lock is held by the caller. The first failure is the answer.
pub async fn reconcile(context: &Context, scope: &Scope) -> Result<(), Failure> {
    let made = bring_about(context, scope).await;
    // Whatever has become of it: a change that is regretted finds its files as they should be, and writes none.
    made.and(left_over::clear(context))
}

async fn bring_about(context: &Context, scope: &Scope) -> Result<(), Failure> {
    let mut failed: Option<Failure> = None;
    let mut left: Vec<Step> = Vec::new();
    for _ in 0..ROUNDS {
        let look = look(context, scope).await?;
        if look.steps.is_empty() {
            return Ok(());
        }
        // Nothing new has come up since the last look: doing the same again won't help.
        if look.steps == left {
            return Err(failed.unwrap_or_else(|| undone(&look.sentences())));
        }
        let tried = look.act(context, |_| true).await?;
        failed = tried.into_iter().find_map(|tried| tried.result.err());
        left = look.steps;
    }
    // Other things came up in each round, as when many guests start at once: all is done that was
    // seen, and what comes next has an event of its own.
    failed.map_or(Ok(()), Err)
}

/// A step itself may hold what is no one's business, such as a whole .nspawn file.
fn undone(sentences: &[String]) -> Failure {
    Failure::new(
        FailureKind::System,
        format!(
            "something on this host undoes what was done, so that still: {}",
            sentences.join("; ")
        ),
    )
    .help("Look for another program that manages the same interfaces, files or units.")
}
