//! The template that each test's database is cloned from: our schema and what the test adds, made once per process and
//! set of steps. Cloning is `local-stack`'s.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use database_services::cache_manager::BoxError;
use database_services::{DatabaseServices, ManagerMode, Settings};
use local_stack::{Database, Stack};

use crate::Error;
use crate::error::told;
use crate::ground::services_of;
use crate::network::load_options;

const SCHEMA: &str = "DATABASE_SCHEMA";

/// What is left of the preparation is one idle connection or two.
const GRACE: Duration = Duration::from_secs(2);

type Prepare = dyn Fn(Template) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send + Sync;

/// A database that is being filled to become a template; see [`Builder::template`](crate::Builder::template).
#[derive(Debug)]
pub struct Template {
    pub(crate) services: DatabaseServices,
    pub(crate) url: String,
}

impl Template {
    /// Services on it, without Redis.
    pub fn services(&self) -> &DatabaseServices {
        &self.services
    }

    /// Its URL, as superuser, for a migrator with connections of its own. They must be closed when the closure returns.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// One thing that is done to the template after our own migrations.
#[derive(Clone)]
pub(crate) enum Step {
    Sql(String),
    Code(String, Arc<Prepare>),
}

impl Step {
    pub(crate) fn code<F, Fut, E>(name: String, prepare: F) -> Self
    where
        F: Fn(Template) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self::Code(
            name,
            Arc::new(move |template| {
                let work = prepare(template);
                Box::pin(async move { work.await.map_err(Into::into) })
            }),
        )
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(sql) => write!(f, "Sql({} bytes)", sql.len()),
            Self::Code(name, _) => write!(f, "Code({name:?})"),
        }
    }
}

/// A clone of the template of these steps, which the first caller of a process makes while the others wait.
pub(crate) async fn cloned(
    stack: &Stack,
    steps: &[Step],
    over: &[(String, String)],
) -> Result<Database, Error> {
    let schema: Vec<_> = over.iter().filter(|(name, _)| name == SCHEMA).cloned().collect();
    let name = name(steps, &schema);
    let steps = steps.to_vec();
    let prepare = async |url: String| match prepare(stack, &url, &steps, &schema).await {
        Ok(()) => Ok(()),
        Err(error) => Err(told(&error)),
    };
    Ok(stack.database_from(&name, prepare).await?)
}

async fn prepare(stack: &Stack, url: &str, steps: &[Step], schema: &[(String, String)]) -> Result<(), Error> {
    let settings = Settings::load(&load_options(&[("DATABASE_URL", url.to_owned())], schema))?;
    let database = settings.database_name.clone();
    let services = services_of(ManagerMode::Admin, settings)?;
    services.initialize().await?;
    let done = run(stack, &database, url, steps, &services).await;
    services.shutdown(GRACE).await;
    done
}

async fn run(
    stack: &Stack,
    database: &str,
    url: &str,
    steps: &[Step],
    services: &DatabaseServices,
) -> Result<(), Error> {
    for step in steps {
        match step {
            Step::Sql(sql) => drop(stack.postgres().primary().sql(database, sql).await?),
            Step::Code(name, prepare) => {
                let template = Template { services: services.clone(), url: url.to_owned() };
                let failed = |error: BoxError| Error::Template { step: name.clone(), reason: told(&*error) };
                prepare(template).await.map_err(failed)?;
            }
        }
    }
    Ok(())
}

// The same steps in another test give the same template; a name of local-stack's is cut after thirty characters.
fn name(steps: &[Step], schema: &[(String, String)]) -> String {
    let mut hash = DefaultHasher::new();
    schema.hash(&mut hash);
    for step in steps {
        match step {
            Step::Sql(sql) => ("sql", sql).hash(&mut hash),
            Step::Code(name, _) => ("code", name).hash(&mut hash),
        }
    }
    format!("services_{:016x}", hash.finish())
}
