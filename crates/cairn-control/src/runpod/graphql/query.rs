//! What can be looked at.

use async_graphql::{Context, InputObject, Object, Result};

use super::types::{CpuFlavor, DataCenter, Endpoint, GpuType, Pod, PodTemplate, User};
use super::{failed, parts};
use crate::service::{ErrorKind, ServiceError, catalog};

#[derive(InputObject)]
struct GpuTypeFilter {
    id: Option<String>,
    ids: Option<Vec<String>>,
}

#[derive(InputObject)]
struct PodFilter {
    pod_id: String,
}

/// What is not there is null, not an error.
fn or_null<T>(outcome: std::result::Result<T, ServiceError>) -> Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

pub(super) struct Query;

#[Object]
impl Query {
    /// The account that the key belongs to.
    async fn myself(&self, context: &Context<'_>) -> Result<Option<User>> {
        let (service, who) = parts(context)?;
        Ok(Some(User::from(service.me(who).map_err(failed)?)))
    }

    async fn data_centers(&self, context: &Context<'_>) -> Result<Vec<DataCenter>> {
        let (service, _) = parts(context)?;
        Ok(service.data_centers().into_iter().map(DataCenter::from).collect())
    }

    /// Kinds of GPUs. None is promised.
    async fn gpu_types(&self, input: Option<GpuTypeFilter>) -> Vec<GpuType> {
        let wanted = |gpu: &catalog::GpuType| match &input {
            Some(GpuTypeFilter { id: Some(id), .. }) => gpu.id == id,
            Some(GpuTypeFilter { ids: Some(ids), .. }) => ids.iter().any(|id| gpu.id == id),
            _ => true,
        };
        catalog::gpu_types().filter(wanted).map(GpuType::from).collect()
    }

    async fn cpu_flavors(&self) -> Vec<CpuFlavor> {
        catalog::CPU_FLAVORS.into_iter().map(CpuFlavor::from).collect()
    }

    async fn pod(&self, context: &Context<'_>, input: Option<PodFilter>) -> Result<Option<Pod>> {
        let (service, who) = parts(context)?;
        let Some(PodFilter { pod_id }) = input else { return Ok(None) };
        Ok(or_null(service.pod(who, &pod_id))?.map(Pod::from))
    }

    async fn endpoint(&self, context: &Context<'_>, id: String) -> Result<Option<Endpoint>> {
        let (service, who) = parts(context)?;
        Ok(or_null(service.endpoint(who, &id))?.map(Endpoint::from))
    }

    async fn pod_template(&self, context: &Context<'_>, id: String) -> Result<Option<PodTemplate>> {
        let (service, who) = parts(context)?;
        Ok(or_null(service.template(who, &id))?.map(PodTemplate::from))
    }
}
