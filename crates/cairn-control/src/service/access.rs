//! Who is asking, and what they may do. The one place where roles are turned into answers.
//!
//! A key belongs to one account and has one role. What belongs to another account does not exist for it. Faces of clouds with
//! finer scopes add roles and permissions here.

use serde::{Deserialize, Serialize};

use super::error::ServiceError;

/// What a key may do, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What a pod is given: look at its account, stop and end itself.
    Pod,
    /// Look at everything of the account.
    Reader,
    /// … and make, change and delete volumes, pods, endpoints and templates.
    Editor,
    /// … and the account's settings and keys.
    Owner,
    /// … and everything of the server: accounts, their credit, the clock.
    Operator,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Pod => "pod",
            Role::Reader => "reader",
            Role::Editor => "editor",
            Role::Owner => "owner",
            Role::Operator => "operator",
        }
    }
}

/// Something that not everybody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Look,
    ChangeStorage,
    ChangeCompute,
    ManageAccount,
    OperateServer,
}

/// A key that was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub account: String,
    pub key_id: String,
    pub role: Role,
    /// The pod that a [`Role::Pod`] key was made for.
    pub pod: Option<String>,
}

impl Principal {
    pub fn may(&self, permission: Permission) -> bool {
        match permission {
            Permission::Look => true,
            Permission::ChangeStorage | Permission::ChangeCompute => {
                matches!(self.role, Role::Editor | Role::Owner | Role::Operator)
            }
            Permission::ManageAccount => matches!(self.role, Role::Owner | Role::Operator),
            Permission::OperateServer => self.role == Role::Operator,
        }
    }

    pub(crate) fn require(&self, permission: Permission) -> Result<(), ServiceError> {
        if self.may(permission) {
            return Ok(());
        }
        let needs = match permission {
            Permission::Look => "this needs a key of the account",
            Permission::ChangeStorage | Permission::ChangeCompute => "this needs an editor's key",
            Permission::ManageAccount => "this needs an owner's key",
            Permission::OperateServer => "this needs the operator's key",
        };
        Err(ServiceError::Forbidden { role: self.role.name(), needs })
    }

    /// For stopping and ending a pod, which a pod may do to itself.
    pub(crate) fn require_for_pod(&self, pod: &str) -> Result<(), ServiceError> {
        if self.pod.as_deref() == Some(pod) { Ok(()) } else { self.require(Permission::ChangeCompute) }
    }
}
