//! Network volumes: volumes of the server's catalogue, with an owner, a tier and a price.
//!
//! A size in GB is a number of 10^9 bytes, the size that is paid for and the quota that programs meet. One that was given in other
//! units (`cairn volume create --size 100GiB`) is shown and charged rounded up.

use std::sync::Arc;

use cairn_server::{CatalogueError, NewVolume};
use cairn_types::{Profile, VolumeId};
use cairn_wire::admin::VolumeInfo;

use super::access::{Permission, Principal};
use super::clock::Moment;
use super::error::ServiceError;
use super::records::{ChargedSpan, VolumeRecord, VolumeTier};
use super::store::{Change, Record, Table};
use super::{Service, catalog, money};

pub(super) const GB: u64 = 1_000_000_000;
/// Largest size, in GB, of what the APIs allow (REST v2).
pub(super) const SIZE_MAX_GB: u64 = 4096;
const VOLUMES_MAX: usize = 1000;
/// As `cairn volume create` makes them.
const CHUNK_SIZE: u32 = 4 * 1024 * 1024;

/// A volume that shall be made.
#[derive(Clone, Debug)]
pub struct NewNetworkVolume {
    pub name: String,
    pub size_gb: u64,
    pub data_center: String,
    pub tier: VolumeTier,
}

/// Whether the API that is used was seen to let sizes shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    Refused,
    /// Allowed if the server reproduces that ([`super::ServiceOptions::v1_shrink`]), and never below what is used.
    AsObserved,
}

/// What shall change; `None` stays.
#[derive(Clone, Debug)]
pub struct VolumeChange {
    pub name: Option<String>,
    pub size_gb: Option<u64>,
    pub shrink: Shrink,
}

/// A volume as its account sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeView {
    pub id: VolumeId,
    pub name: String,
    pub size_gb: u64,
    pub data_center: String,
    pub tier: VolumeTier,
    pub account: String,
    /// It is terminated for good, and goes when nobody has it mounted.
    pub doomed: bool,
    bytes_limit: u64,
}

/// Bytes in GB, rounded up.
fn in_gb(bytes: u64) -> u64 {
    bytes.div_ceil(GB)
}

/// What is put down of a volume's charges when they end or change.
pub(super) fn end_of_charges(volume: &VolumeRecord, end: Moment) -> Option<Change> {
    (volume.charged_gb > 0 && end > volume.charged_since).then(|| {
        Change::Put(Record::Span(ChargedSpan {
            volume: volume.id.clone(),
            account: volume.account.clone(),
            tier: volume.tier,
            size_gb: volume.charged_gb,
            start: volume.charged_since,
            end,
        }))
    })
}

impl Service {
    fn view(&self, info: VolumeInfo, account: &str) -> Option<VolumeView> {
        let state = self.state.read();
        let (tier, doomed) = match state.volumes.get(&info.id) {
            Some(record) if record.account != account || record.unfinished => return None,
            Some(record) => (record.tier, record.doomed),
            // Made this moment without the control plane; it will be recorded with the next change.
            None if state.home_account().is_some_and(|home| home.id == account) => (VolumeTier::Standard, false),
            None => return None,
        };
        Some(VolumeView {
            size_gb: in_gb(info.bytes_limit),
            bytes_limit: info.bytes_limit,
            id: info.id,
            name: info.name,
            data_center: info.data_center,
            tier,
            account: account.to_owned(),
            doomed,
        })
    }

    /// The account's volumes, in the order of their ids.
    pub fn volumes(&self, who: &Principal) -> Result<Vec<VolumeView>, ServiceError> {
        who.require(Permission::Look)?;
        let infos = self.server.catalogue().infos();
        Ok(infos.into_iter().filter_map(|info| self.view(info, &who.account)).collect())
    }

    pub fn volume(&self, who: &Principal, id: &str) -> Result<VolumeView, ServiceError> {
        who.require(Permission::Look)?;
        self.volume_of(&who.account, id)
    }

    pub(super) fn volume_of(&self, account: &str, id: &str) -> Result<VolumeView, ServiceError> {
        let not_found = ServiceError::NotFound { what: "network volume" };
        let Ok(id) = id.parse::<VolumeId>() else { return Err(not_found) };
        let info = self.server.catalogue().info(&id);
        info.and_then(|info| self.view(info, account)).ok_or(not_found)
    }

    /// Data centres that a volume can be in: those that the cloud lists, and those that volumes are in already.
    pub fn data_centers(&self) -> Vec<catalog::DataCenter> {
        let mut known = catalog::data_centers();
        for info in self.server.catalogue().infos() {
            if !info.data_center.is_empty() && known.iter().all(|center| center.id != info.data_center) {
                known.push(catalog::DataCenter::unlisted(&info.data_center));
            }
        }
        known
    }

    pub(super) fn check_data_center(&self, given: &str) -> Result<(), ServiceError> {
        let known = self.data_centers();
        if known.iter().any(|center| center.id == given) {
            return Ok(());
        }
        let known = known.into_iter().map(|center| center.id).collect();
        Err(ServiceError::UnknownDataCenter { given: given.chars().take(64).collect(), known })
    }

    pub(super) fn require_balance(&self, account: &str) -> Result<(), ServiceError> {
        let exhausted = self.account(account)?.exhausted.is_some();
        if exhausted { Err(ServiceError::NoBalance) } else { Ok(()) }
    }

    pub async fn create_volume(
        self: &Arc<Self>,
        who: &Principal,
        wanted: NewNetworkVolume,
    ) -> Result<VolumeView, ServiceError> {
        who.require(Permission::ChangeStorage)?;
        cairn_server::catalogue::rules::check_name(&wanted.name)?;
        check_size(wanted.size_gb)?;
        let account = who.account.clone();
        self.change(|service| async move {
            service.check_data_center(&wanted.data_center)?;
            service.settle_alone().await?;
            service.require_balance(&account)?;
            let owned = service.state.read().volumes.values().filter(|volume| volume.account == account).count();
            if owned >= VOLUMES_MAX {
                return Err(ServiceError::TooMany { what: "network volumes", limit: VOLUMES_MAX });
            }
            let id = service.server.catalogue().reserve_id();
            let mut record = VolumeRecord {
                id: id.clone(),
                account: account.clone(),
                tier: wanted.tier,
                unfinished: true,
                charged_gb: 0,
                charged_since: service.now(),
                doomed: false,
            };
            service.commit(vec![Change::Put(Record::Volume(record.clone()))]).await?;
            let made = service
                .server
                .catalogue()
                .create_as(
                    id.clone(),
                    NewVolume {
                        name: wanted.name,
                        bytes_limit: wanted.size_gb * GB,
                        inodes_limit: None,
                        data_center: wanted.data_center,
                        chunk_size: CHUNK_SIZE,
                        profile: Profile::default(),
                    },
                )
                .await;
            if let Err(error) = made {
                service.commit(vec![Change::Remove(Table::Volumes, id.to_string())]).await?;
                return Err(error.into());
            }
            record.unfinished = false;
            record.charged_gb = wanted.size_gb;
            record.charged_since = service.now();
            service.commit(vec![Change::Put(Record::Volume(record))]).await?;
            service.volume_of(&account, id.as_str())
        })
        .await
    }

    pub async fn update_volume(
        self: &Arc<Self>,
        who: &Principal,
        id: &str,
        wanted: VolumeChange,
    ) -> Result<VolumeView, ServiceError> {
        who.require(Permission::ChangeStorage)?;
        let (account, id) = (who.account.clone(), id.to_owned());
        if let Some(name) = &wanted.name {
            cairn_server::catalogue::rules::check_name(name)?;
        }
        wanted.size_gb.map_or(Ok(()), check_size)?;
        self.change(|service| async move {
            let view = service.volume_of(&account, &id)?;
            if view.doomed {
                return Err(ServiceError::NotFound { what: "network volume" });
            }
            service.settle_alone().await?;
            let catalogue = service.server.catalogue();
            if let Some(size_gb) = wanted.size_gb.filter(|size_gb| *size_gb != view.size_gb) {
                let shrinks = size_gb * GB < view.bytes_limit;
                if shrinks && !(wanted.shrink == Shrink::AsObserved && service.options.v1_shrink) {
                    return Err(ServiceError::Shrink { current_gb: view.size_gb, wanted_gb: size_gb });
                }
                if !shrinks {
                    service.require_balance(&account)?;
                }
                catalogue.resize(&view.id, Some(size_gb * GB), None).await?;
            }
            if let Some(name) = wanted.name.filter(|name| *name != view.name) {
                catalogue.rename(&view.id, name).await?;
            }
            service.take_in_volumes().await?;
            service.volume_of(&account, &id)
        })
        .await
    }

    pub async fn delete_volume(self: &Arc<Self>, who: &Principal, id: &str) -> Result<(), ServiceError> {
        who.require(Permission::ChangeStorage)?;
        let (account, id) = (who.account.clone(), id.to_owned());
        self.change(|service| async move {
            let view = service.volume_of(&account, &id)?;
            let (pods, endpoints) = service.state.read().holders(&view.id);
            if !pods.is_empty() || !endpoints.is_empty() {
                return Err(ServiceError::Attached { volume: view.id, pods, endpoints });
            }
            service.settle_alone().await?;
            match service.server.delete_unguarded_volume(&view.id).await {
                Ok(()) | Err(CatalogueError::UnknownVolume(_)) => service.forget_volume(&view.id).await,
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Ends the charges of a volume that is gone.
    pub(super) async fn forget_volume(&self, id: &VolumeId) -> Result<(), ServiceError> {
        let Some(record) = self.state.read().volumes.get(id).cloned() else { return Ok(()) };
        let mut changes: Vec<Change> = end_of_charges(&record, self.now()).into_iter().collect();
        changes.push(Change::Remove(Table::Volumes, id.to_string()));
        self.commit(changes).await
    }

    /// Takes in volumes that were made, resized or deleted without the control plane.
    pub(super) async fn take_in_volumes(&self) -> Result<(), ServiceError> {
        let infos = self.server.catalogue().infos();
        let now = self.now();
        let mut changes = Vec::new();
        {
            let state = self.state.read();
            let Some(home) = state.home_account() else { return Ok(()) };
            for info in &infos {
                let size_gb = in_gb(info.bytes_limit);
                match state.volumes.get(&info.id) {
                    None => changes.push(Change::Put(Record::Volume(VolumeRecord {
                        id: info.id.clone(),
                        account: home.id.clone(),
                        tier: VolumeTier::Standard,
                        unfinished: false,
                        charged_gb: size_gb,
                        charged_since: now,
                        doomed: false,
                    }))),
                    Some(record) if record.unfinished || record.doomed || record.charged_gb == size_gb => {}
                    Some(record) => {
                        changes.extend(end_of_charges(record, now));
                        let charged = VolumeRecord { charged_gb: size_gb, charged_since: now, ..record.clone() };
                        changes.push(Change::Put(Record::Volume(charged)));
                    }
                }
            }
            for record in state.volumes.values().filter(|record| !record.unfinished) {
                if infos.iter().all(|info| info.id != record.id) {
                    changes.extend(end_of_charges(record, now));
                    changes.push(Change::Remove(Table::Volumes, record.id.to_string()));
                }
            }
        }
        self.commit(changes).await
    }

    /// Removes what a creation left that the server's end cut short: nobody was told of it.
    pub(super) async fn discard_unfinished(self: &Arc<Self>) -> Result<(), ServiceError> {
        self.change(|service| async move {
            let unfinished: Vec<VolumeId> = service
                .state
                .read()
                .volumes
                .values()
                .filter(|volume| volume.unfinished)
                .map(|volume| volume.id.clone())
                .collect();
            for id in unfinished {
                match service.server.delete_unguarded_volume(&id).await {
                    Ok(()) | Err(CatalogueError::UnknownVolume(_)) => service.forget_volume(&id).await?,
                    Err(error) => tracing::warn!(volume = %id, %error, "an unfinished volume cannot be removed"),
                }
            }
            Ok(())
        })
        .await
    }

    /// What a volume costs a month at its present size, in dollars.
    pub fn monthly_price(size_gb: u64) -> f64 {
        money::monthly_price(size_gb) as f64 / 1e9
    }
}

fn check_size(size_gb: u64) -> Result<(), ServiceError> {
    if (1..=SIZE_MAX_GB).contains(&size_gb) {
        return Ok(());
    }
    Err(ServiceError::Invalid(format!("a network volume has 1 to {SIZE_MAX_GB} GB: {size_gb} GB is not possible")))
}
