//! One thread's ring: takes requests from the kernel's queues of one or more CPUs, has them served, gives answers back.
//!
//! A slot is either in the kernel's hands (`Place::Kernel`: empty, waiting for a request) or out (`Place::Out`: its
//! request is being served). The kernel writes into a slot only while this thread is inside a system call, and only
//! this thread submits. **A queue is never without a slot in the kernel's hands** for longer than one turn of the
//! loop: when fewer than [`RESERVE`] are left, more are registered.
//!
//! A request for which there is no slot is queued in the kernel, which hands it to the next answer and never to a new slot
//! (Linux 6.18). Its answer may be what all others wait for: a lock's unlocking, the writing of dirty pages of a recalled
//! lease. The kernel takes the slot that it was given last, so one that has been with it for longer than all others is only
//! taken when no other is left. When that has happened, the kernel is made to ask something that is answered at once
//! ([`ask_for_a_request`]), again for as long as such an answer brings a queued request. This works for the queue of the
//! thread's own CPU, by which its messages to the kernel go; that of a CPU which this process may not use has the reserve alone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_client::api::FileSystem;
use cairn_types::Errno;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode as operation, types};

use crate::abi::opcode;
use crate::answer::{Answer, Target};
use crate::device::Device;
use crate::notify::ask_for_a_request;
use crate::service::Service;
use crate::uring::returns::Returns;
use crate::uring::slot::Slot;

/// Commands that are collected before they must be submitted.
const SUBMISSIONS: u32 = 64;

/// Completions that the ring holds; the kernel keeps what does not fit.
const COMPLETIONS: u32 = 512;

/// Most slots of one queue. Each that is in use stands for a thread that waits in the kernel, and takes some pages while it does.
const SLOTS_MAX: usize = 1024;

/// Slots that each queue has in the kernel's hands when a turn begins: more requests than come on one CPU in a turn. Unused
/// ones cost address space only.
const RESERVE: usize = 64;

/// Most slots of a queue that waits for locks may take: other requests end by themselves, these might not.
const LOCK_WAITS_MAX: usize = SLOTS_MAX / 2;

/// Pause after an error that should not be.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// `user_data` of the poll of the bell; slots have their index.
const BELL: u64 = u64::MAX;

type Uring = IoUring<Entry128, cqueue::Entry>;

/// Which of the kernel's queues a thread serves.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The CPU that the thread runs on, if it is to be kept on one.
    pub(crate) cpu: Option<u16>,
    /// Queues (numbers of CPUs) and how many slots each has from the start.
    pub(crate) queues: Vec<(u16, usize)>,
}

#[derive(Debug)]
enum Place {
    Kernel(Slot),
    Out,
    /// The kernel took the slot's registration or command back.
    Dead,
}

/// The kernel's queue of one CPU.
#[derive(Debug)]
struct Queue {
    number: u16,
    slots: usize,
    /// Of these, in the kernel's hands.
    waiting: usize,
}

pub(crate) struct Ring {
    uring: Uring,
    returns: Arc<Returns>,
    places: Vec<Place>,
    queues: Vec<Queue>,
    /// Most slots that keep the memory of long payloads, and how many do. The kernel takes the slot that it was given last, so
    /// those that were used last keep theirs.
    keep: usize,
    resident: usize,
    bell_is_polled: bool,
    /// Number of the queue that is served on its own CPU.
    own: Option<u16>,
    /// The kernel has taken the last slot of that queue: requests may be queued.
    starved: bool,
    /// Times that a slot was committed, that is, given to the kernel.
    commits: u64,
    /// Of that queue's slots in the kernel's hands, the commit of the one that has been there longest.
    oldest: u64,
    /// A file that was read, written or locked last: what may be waited for.
    file: Option<u64>,
    /// The slot whose answer was to bring a queued request, and whether its turn is over.
    drawn: Option<(usize, bool)>,
    ended: bool,
}

/// Makes a ring as this module needs it; also the way to find out whether that is permitted.
pub(crate) fn new_uring() -> io::Result<Uring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS).setup_single_issuer().setup_defer_taskrun();
    builder.build(SUBMISSIONS)
}

impl Ring {
    /// To be called on the thread that will serve. Takes everything that can be refused before the kernel is promised
    /// anything.
    pub(crate) fn new(plan: &Plan, returns: Arc<Returns>) -> io::Result<Self> {
        let mut places = Vec::new();
        let mut queues = Vec::new();
        for &(number, slots) in &plan.queues {
            for _ in 0..slots {
                places.push(Place::Kernel(Slot::new(places.len(), number)?));
            }
            queues.push(Queue { number, slots, waiting: slots });
        }
        let keep = if plan.cpu.is_some() { places.len() } else { 0 };
        Ok(Ring {
            uring: new_uring()?,
            returns,
            places,
            queues,
            keep,
            resident: 0,
            bell_is_polled: false,
            own: plan.cpu,
            starved: false,
            commits: 0,
            oldest: 0,
            file: None,
            drawn: None,
            ended: false,
        })
    }

    /// Gives the first slots to the kernel.
    ///
    /// # Errors
    /// What the kernel says if it does not take them: it goes on with the classic queue then.
    pub(crate) fn register(&mut self, device: &Device) -> io::Result<()> {
        self.poll_bell();
        for index in 0..self.places.len() {
            self.register_slot(device, index)?;
        }
        self.find_oldest();
        self.uring.submit()?;
        let refused = self.uring.completion().find(|entry| entry.user_data() != BELL && entry.result() < 0);
        refused.map_or(Ok(()), |entry| Err(io::Error::from_raw_os_error(-entry.result())))
    }

    /// Serves until the mount ends. Nothing else ends it: without its thread a queue would hang whoever runs on its CPU.
    pub(crate) fn serve<F: FileSystem>(&mut self, service: &Service<F>, device: &Device) {
        let mut answered = Vec::new();
        while !self.ended {
            if let Err(error) = self.turn(service, device, &mut answered) {
                tracing::error!(%error, "a ring of the mount does not work; trying again");
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }

    /// Gives answers to the kernel, waits for requests, and has them served. What an error interrupts, the next turn does.
    fn turn<F: FileSystem>(
        &mut self,
        service: &Service<F>,
        device: &Device,
        answered: &mut Vec<Slot>,
    ) -> io::Result<()> {
        self.returns.take_before_sleep(answered);
        for slot in answered.drain(..) {
            self.commit(device, slot);
        }
        self.grow(device)?;
        self.draw_queued(device);
        self.poll_bell();
        match self.uring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        self.returns.awake();
        loop {
            let Some(entry) = self.uring.completion().next() else { break };
            if entry.user_data() == BELL {
                self.bell_is_polled = cqueue::more(entry.flags());
            } else {
                self.completed(service, entry.user_data() as usize, entry.result());
            }
        }
        self.drawn = self.drawn.and_then(|(index, over)| (!over).then_some((index, true)));
        self.discard();
        Ok(())
    }

    /// Has the kernel ask something whose answer brings a queued request, if there may be one.
    fn draw_queued(&mut self, device: &Device) {
        if !std::mem::take(&mut self.starved) {
            return;
        }
        self.find_oldest();
        let Some(file) = self.file else { return };
        if let Err(error) = ask_for_a_request(device, file) {
            tracing::debug!(%error, file, "the kernel could not be made to ask");
        }
    }

    fn completed<F: FileSystem>(&mut self, service: &Service<F>, index: usize, result: i32) {
        let Some(place) = self.places.get_mut(index) else { return };
        let Place::Kernel(mut slot) = std::mem::replace(place, Place::Out) else { return };
        let queue = self.queues.iter_mut().find(|queue| queue.number == slot.queue);
        let Some(queue) = queue else { return };
        queue.waiting -= 1;
        self.starved |= self.own == Some(slot.queue) && slot.last_commit <= self.oldest;
        if result < 0 {
            *place = Place::Dead;
            queue.slots -= 1;
            self.resident -= usize::from(slot.keeps);
            match -result {
                // The mount or its connection has ended.
                libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV => self.ended = true,
                errno => {
                    let error = io::Error::from_raw_os_error(errno);
                    tracing::error!(%error, queue = slot.queue, "the kernel does not take a slot back");
                }
            }
            return;
        }
        let header = slot.header();
        if matches!(header.opcode, opcode::READ | opcode::WRITE | opcode::SETLK | opcode::SETLKW) {
            self.file = Some(header.nodeid);
        }
        if header.opcode == opcode::NOTIFY_REPLY {
            self.drawn = Some((index, false));
        } else if self.drawn.is_some_and(|(drawn, _)| drawn == index) {
            self.starved = true;
        }
        let crowded = queue.slots - queue.waiting > LOCK_WAITS_MAX;
        let request = slot.take_request().and_then(|message| {
            let mut request = service.read(message)?;
            if crowded && request.waits_for_a_lock() {
                request.refuse(Errno(libc::ENOLCK));
            }
            let data = service.copy_data(&request, message);
            Some((request, data))
        });
        if let Some((request, data)) = request {
            if slot.is_large() && !slot.keeps {
                // What came with a write has been copied, and its answer may take long.
                if self.resident < self.keep {
                    slot.keeps = true;
                    self.resident += 1;
                } else {
                    slot.discard();
                }
            }
            service.serve(request, data, Target::Ring(Arc::clone(&self.returns), slot));
        } else {
            tracing::error!("the kernel sent a request whose lengths contradict each other");
            let header = slot.header();
            let target = Target::Ring(Arc::clone(&self.returns), slot);
            Answer::new(target, &header, Instant::now()).send(Err(Errno::EIO.into()));
        }
    }

    /// Finds the slot of the thread's own queue that is with the kernel for the longest time.
    fn find_oldest(&mut self) {
        let commits = self.places.iter().filter_map(|place| match place {
            Place::Kernel(slot) if self.own == Some(slot.queue) => Some(slot.last_commit),
            _ => None,
        });
        self.oldest = commits.min().unwrap_or(self.commits + 1);
    }

    fn commit(&mut self, device: &Device, mut slot: Slot) {
        self.commits += 1;
        slot.last_commit = self.commits;
        let index = slot.index;
        if slot.is_large() && !slot.keeps {
            slot.keeps = true;
            self.resident += 1;
        }
        let command = slot.commit(device);
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.number == slot.queue) {
            queue.waiting += 1;
        }
        if let Some(place) = self.places.get_mut(index) {
            *place = Place::Kernel(slot);
        }
        self.push(command);
    }

    /// Keeps the invariant that no queue is without slots in the kernel's hands.
    fn grow(&mut self, device: &Device) -> io::Result<()> {
        let mut position = 0;
        while let Some(queue) = self.queues.get_mut(position) {
            if queue.waiting >= RESERVE || queue.slots >= SLOTS_MAX {
                position += 1;
                continue;
            }
            let index = self.places.iter().position(|place| matches!(place, Place::Dead)).unwrap_or(self.places.len());
            let slot = match Slot::new(index, queue.number) {
                Ok(slot) => slot,
                Err(error) => {
                    tracing::warn!(%error, "no memory for one more request at a time; it waits for another's end");
                    position += 1;
                    continue;
                }
            };
            queue.slots += 1;
            queue.waiting += 1;
            match self.places.get_mut(index) {
                Some(place) => *place = Place::Kernel(slot),
                None => self.places.push(Place::Kernel(slot)),
            }
            self.register_slot(device, index)?;
        }
        Ok(())
    }

    fn register_slot(&mut self, device: &Device, index: usize) -> io::Result<()> {
        let Some(Place::Kernel(slot)) = self.places.get_mut(index) else { return Ok(()) };
        self.commits += 1;
        slot.last_commit = self.commits;
        let buffers = slot.buffers();
        let entry = slot.register(device, &buffers);
        self.push(entry);
        // The kernel reads where the buffers are while it takes the command, so before they go.
        self.uring.submit().map(drop)
    }

    /// Gives back memory, of those slots first that the kernel will take last. Only now, after all completions: none of these
    /// slots has a request that was not seen.
    fn discard(&mut self) {
        if self.resident <= self.keep || self.uring.submission().cq_overflow() {
            return;
        }
        let mut idle: Vec<&mut Slot> = self
            .places
            .iter_mut()
            .filter_map(|place| match place {
                Place::Kernel(slot) if slot.keeps => Some(slot),
                _ => None,
            })
            .collect();
        idle.sort_unstable_by_key(|slot| slot.last_commit);
        for slot in idle.into_iter().take(self.resident - self.keep) {
            slot.discard();
            self.resident -= 1;
        }
    }

    fn poll_bell(&mut self) {
        if self.bell_is_polled {
            return;
        }
        self.bell_is_polled = true;
        let poll = operation::PollAdd::new(types::Fd(self.returns.bell()), libc::POLLIN as u32).multi(true);
        self.push(poll.build().user_data(BELL).into());
    }

    fn push(&mut self, entry: Entry128) {
        // SAFETY: what commands point to outlives them: slots are kept in `places` while the kernel has them, and the
        // buffers of a registration until it is submitted.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            if let Err(error) = self.uring.submit() {
                // The command must not be lost: its request would never be answered.
                tracing::error!(%error, "a ring of the mount takes no commands; trying again");
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.returns.close();
    }
}
