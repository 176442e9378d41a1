//! The one layer below every face: accounts, keys and roles, volumes, attachments, pods, endpoints, templates, usage and charges.
