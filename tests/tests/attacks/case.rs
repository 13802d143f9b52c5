//! What one case is: an attack, what it must come to, a control that shows the attack is a real one, and a
//! look from outside at whether anything happened.

use std::fmt;

use crate::stage::Stage;

#[path = "../../src/bin/attacker/errno.rs"]
mod errno;

/// Where and as whom the actor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the attacking slice's capsule.
    Capsule,
    /// In the neighbour's capsule.
    Neighbour,
    /// In the capsule that is there to run out of things.
    Hog,
    /// Outside, with the attacking slice's UID, as its login shell has it.
    SliceUser,
    /// Outside, as an ordinary user.
    Nobody,
    /// Outside, as root.
    Root,
    /// Outside, as root, with mounts of its own.
    RootOwnMounts,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It worked, and this is what it gave.
    Worked(String),
    /// The kernel's error number.
    Errno(i32),
    /// A signal ended it.
    Killed(i32),
    /// plabd's answer: the code of a refusal, or the kind of reply.
    Reply(String),
    /// It came to no answer.
    Nothing(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worked(detail) => write!(f, "works: {}", detail.chars().take(60).collect::<String>()),
            Self::Errno(number) => write!(f, "{}", Expect::Errno(*number)),
            Self::Killed(signal) => write!(f, "signal {signal}"),
            Self::Reply(kind) => write!(f, "reply {kind}"),
            Self::Nothing(why) => write!(f, "no answer: {why}"),
        }
    }
}

/// How an attempt must end.
#[derive(Debug, Clone)]
pub enum Expect {
    /// With this error.
    Errno(i32),
    /// It works.
    Works,
    /// It works and gives exactly this.
    Gives(&'static str),
    /// This signal ends it.
    Killed(i32),
    /// plabd answers so.
    Reply(&'static str),
    /// One of these; for controls on machines that have or lack a feature.
    Either(Vec<Expect>),
}

impl Expect {
    /// Whether this is what was seen.
    pub fn is(&self, seen: &Seen) -> bool {
        match (self, seen) {
            (Self::Errno(wanted), Seen::Errno(number)) => wanted == number,
            (Self::Works, Seen::Worked(_)) => true,
            (Self::Gives(wanted), Seen::Worked(detail)) => wanted == detail,
            (Self::Killed(wanted), Seen::Killed(signal)) => wanted == signal,
            (Self::Reply(wanted), Seen::Reply(kind)) => wanted == kind,
            (Self::Either(all), seen) => all.iter().any(|one| one.is(seen)),
            _ => false,
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(number) => match errno::name(*number) {
                "E?" => write!(f, "errno {number}"),
                name => f.write_str(name),
            },
            Self::Works => f.write_str("works"),
            Self::Gives(detail) => write!(f, "works: {detail}"),
            Self::Killed(signal) => write!(f, "signal {signal}"),
            Self::Reply(kind) => write!(f, "reply {kind}"),
            Self::Either(all) => {
                let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                f.write_str(&all.join(" or "))
            }
        }
    }
}

/// What came of a case.
#[derive(Debug, Default)]
pub struct Tried {
    /// What the attack came to.
    pub inside: String,
    /// What the control came to.
    pub control: String,
    /// Everything that is not as it must be; empty when the case holds.
    pub wrong: Vec<String>,
}

impl Tried {
    /// Notes `what` unless it holds.
    pub fn check(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.wrong.push(what.into());
        }
    }
}

type Judge = Box<dyn FnOnce(&Stage) -> Result<(), String>>;

/// One case.
pub struct Case {
    /// What the table calls it.
    pub name: String,
    /// What would be lost if it worked.
    pub against: &'static str,
    /// Runs attack, control and judge.
    pub run: Box<dyn FnOnce(&Stage) -> Tried>,
}

impl Case {
    /// A case with a course of its own.
    pub fn of(
        name: impl Into<String>,
        against: &'static str,
        run: impl FnOnce(&Stage) -> Tried + 'static,
    ) -> Self {
        Self { name: name.into(), against, run: Box::new(run) }
    }
}

/// A case that is one attempt at one place, and the control of the same kind at another.
pub struct Attack {
    name: String,
    against: &'static str,
    place: Place,
    args: Vec<String>,
    expect: Expect,
    control: (Place, Vec<String>, Expect),
    judge: Option<Judge>,
}

/// Words of a command line.
pub fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// An attack from within the capsule. Its control is the same, as root outside, and must work.
pub fn attack(name: &str, against: &'static str, line: impl AsRef<str>, expect: Expect) -> Attack {
    let args = words(line.as_ref());
    let control = (Place::Root, args.clone(), Expect::Works);
    Attack { name: name.to_owned(), against, place: Place::Capsule, args, expect, control, judge: None }
}

impl Attack {
    /// Runs the attack elsewhere.
    pub fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// The arguments one by one, for those with spaces in them. The control has them too.
    pub fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.control.1 = self.args.clone();
        self
    }

    /// Runs the control elsewhere.
    pub fn control_at(mut self, place: Place) -> Self {
        self.control.0 = place;
        self
    }

    /// Gives the control other arguments: another target, of the same kind.
    pub fn control(mut self, line: impl AsRef<str>) -> Self {
        self.control.1 = words(line.as_ref());
        self
    }

    /// As [`Self::control`], for arguments with spaces.
    pub fn control_with(mut self, args: &[&str]) -> Self {
        self.control.1 = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    /// What the control comes to, if it is not plain success: it has got past what stopped the attack.
    pub fn control_is(mut self, expect: Expect) -> Self {
        self.control.2 = expect;
        self
    }

    /// Looks from outside at what happened, after the attack and before the control.
    pub fn judge(mut self, judge: impl FnOnce(&Stage) -> Result<(), String> + 'static) -> Self {
        self.judge = Some(Box::new(judge));
        self
    }
}

impl From<Attack> for Case {
    fn from(attack: Attack) -> Self {
        let Attack { name, against, place, args, expect, control, judge } = attack;
        Self::of(name, against, move |stage| {
            let mut tried = Tried::default();
            let seen = stage.act(place, &args);
            tried.check(expect.is(&seen), format!("the attack came to {seen}, not to {expect}"));
            if let Some(Err(why)) = judge.map(|judge| judge(stage)) {
                tried.wrong.push(why);
            }
            let (place, args, expect) = control;
            let shown = stage.act(place, &args);
            tried.check(expect.is(&shown), format!("the control came to {shown}, not to {expect}"));
            tried.check(shown != seen, "attack and control came to the same, so neither says anything");
            (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
            tried
        })
    }
}
