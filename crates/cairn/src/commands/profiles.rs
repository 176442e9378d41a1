//! `cairn profiles`: the table of emulation profiles.

use std::process::ExitCode;

use anyhow::Result;
use cairn_types::Profile;
use cairn_types::profile::Base;
use serde_json::{Map, Value};

use crate::output;

pub(crate) fn run(json: bool) -> Result<ExitCode> {
    if json {
        let parameters = |base: Base| -> Map<String, Value> {
            Profile::from(base).parameters().map(|(name, value)| (name.to_owned(), value.into())).collect()
        };
        let profiles: Map<String, Value> =
            Base::ALL.into_iter().map(|base| (base.name().to_owned(), parameters(base).into())).collect();
        output::json(&profiles)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut headings = vec!["PARAMETER"];
    headings.extend(Base::ALL.map(Base::name));
    let mut rows: Vec<Vec<String>> = Profile::default().parameters().map(|(name, _)| vec![name.to_owned()]).collect();
    for base in Base::ALL {
        for (row, (_, value)) in rows.iter_mut().zip(Profile::from(base).parameters()) {
            row.push(value);
        }
    }
    output::table(&headings, &rows);
    Ok(ExitCode::SUCCESS)
}
