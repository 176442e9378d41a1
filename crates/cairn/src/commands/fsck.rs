//! `cairn fsck`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use cairn_wire::admin::{AdminReply, AdminRequest, CheckOptions, CheckProgress};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Fsck;
use crate::exit_code::Exit;
use crate::{connect, runtime};

pub(crate) fn run(options: &Fsck) -> Result<ExitCode> {
    let outcome = runtime::block_on(check(options))?;
    for problem in &outcome.problems {
        println!("{problem}");
    }
    let found = outcome.problems.len() as u64;
    if found == 0 {
        println!("{}: clean", options.volume);
        return Ok(ExitCode::SUCCESS);
    }
    let left = found.saturating_sub(outcome.repaired);
    println!("{}: {found} problems, {} repaired, {left} left", options.volume, outcome.repaired);
    if left > 0 && !options.repair {
        println!("run again with --repair to fix what can be fixed");
    }
    Ok(if left == 0 { ExitCode::SUCCESS } else { Exit::Damaged.into() })
}

async fn check(options: &Fsck) -> Result<CheckProgress> {
    let mut client = connect::admin(&options.connection).await?;
    let check_options = CheckOptions { repair: options.repair, data: options.check_data };
    let start = AdminRequest::CheckStart { volume: options.volume.clone(), options: check_options };
    let AdminReply::CheckStarted { check } = client.request(start).await.map_err(connect::admin_error)? else {
        return connect::unexpected();
    };
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg:<28} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let mut pause = Duration::from_millis(10);
    loop {
        let reply = client.request(AdminRequest::CheckProgress { check }).await.map_err(connect::admin_error)?;
        let AdminReply::CheckProgress(progress) = reply else { return connect::unexpected() };
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        bar.set_message(progress.stage.clone());
        if progress.finished {
            bar.finish_and_clear();
            return Ok(progress);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}
