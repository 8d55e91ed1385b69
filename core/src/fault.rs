//! Refusals and faults: one numbered table, each with its remedy.
//!
//! *Refusal*: the operator can do something about it, and is told what. *Fault*: a device
//! failed; it keeps the call and the code. A broken invariant of our own is
//! [`Fault::Bug`]: the service halts, it never panics. Numbers are stable: scripts,
//! translations and the audit log rely on them. The rendered table is
//! `tests/golden/refusals.md`.

use serde::{Deserialize, Serialize};

/// Declares the refusals: number, name, sentence, remedy, one line each. New ones go to the end,
/// whatever their number: audit records hold their places.
macro_rules! refusals {
    ($($number:literal $variant:ident $name:literal $class:ident $sentence:literal $remedy:literal;)*) => {
        /// What was not done, and what the operator can do about it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(u16)]
        pub enum Refusal {
            $(#[doc = $sentence] $variant = $number,)*
        }

        impl Refusal {
            /// Every refusal, in the order of their making.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$variant,)*];

            /// The stable number.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Refusal::$variant => $number,)* }
            }

            /// The stable name, for scripts.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Refusal::$variant => $name,)* }
            }

            /// What is so, for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Refusal::$variant => $sentence,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Refusal::$variant => $remedy,)* }
            }

            /// What kind of answer it is; exit codes and HTTP status follow from it.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Refusal::$variant => Class::$class,)* }
            }
        }
    };
}

/// Kinds of refusal: exit codes and HTTP status are mapped from these in one place each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// The order cannot be carried out as it is.
    Wrong,
    /// Somebody has to act first.
    WaitsForPeople,
    /// The same order may succeed later.
    Later,
    /// The person may not.
    NotAllowed,
}

refusals! {
    101 NotAllowed "not-allowed" NotAllowed
        "your roles do not allow this" "ask an administrator, or have the configuration give you the role";
    102 UnknownSlot "unknown-slot" Wrong
        "no slot has this name" "`slotwarden slot list` shows the names";
    103 Busy "busy" Later
        "the slot is carrying out another order" "wait until `slotwarden slot show` says it ended";
    104 TooManyCommands "too-many-commands" Later
        "too many orders wait for their answers" "try again when they are answered";
    105 Halted "halted" Wrong
        "the service has halted: its store failed or an invariant broke" "read the log, mend the disk, restart the daemon; no code is lost";
    106 DiskReserve "disk-reserve" Wrong
        "less than 4 MiB is free for the store" "free space in the state directory's file system, then try again";
    107 NotStarted "not-started" Later
        "the service has not finished starting" "try again in a moment";
    108 Stopping "stopping" Later
        "the service is stopping" "start it again";
    109 SafeFull "safe-full" Later
        "no place in the Safe is free" "try again when other orders are answered";
    110 TooManyPersons "too-many-persons" Wrong
        "the configuration names too many persons" "remove persons from the configuration";
    111 TooManySlots "too-many-slots" Wrong
        "the configuration names too many slots" "split them over two appliances";
    112 TooManyApplications "too-many-applications" Wrong
        "a slot has too many applications" "bind at most four applications to one slot";
    113 OutboxFull "outbox-full" Later
        "too many effects are under way" "try again in a moment";

    201 CodeTooShort "code-too-short" Wrong
        "the code has fewer than 8 characters" "enter at least 8 characters; the token was not touched";
    202 CodeTooLong "code-too-long" Wrong
        "the code is longer than 64 characters, or than the token or an application allows" "enter a shorter code; the token was not touched";
    203 CodeNotPrintable "code-not-printable" Wrong
        "the code or passphrase holds a character that is not printable ASCII" "use letters, digits, spaces and signs of ASCII; nothing was attempted";
    204 CodeMissing "code-missing" Wrong
        "this needs the present code" "give it at the prompt, with --code-file or with --code-fd";
    205 CodeNotWanted "code-not-wanted" Wrong
        "the slot's code is generated: nobody types it" "leave the code away";
    206 NewCodeMissing "new-code-missing" Wrong
        "this needs a new code" "give it at the prompt, with --new-code-file or with --new-code-fd";
    207 NewCodeNotWanted "new-code-not-wanted" Wrong
        "the new code will be generated: nobody types it" "leave the new code away";
    208 CodeUnchanged "code-unchanged" Wrong
        "the new code equals the present one" "choose another";
    209 CodeWrong "code-wrong" Wrong
        "the token refused the code" "check the code; `slotwarden slot show` says how many tries are left";
    210 SecretTooLong "secret-too-long" Wrong
        "the secret is longer than 64 bytes" "enter at most 64 characters";
    211 StoredCodeRefused "stored-code-refused" WaitsForPeople
        "the token refused the stored code; it is kept, and not tried again without a person" "find out who changed the PIN; `slotwarden slot activate NAME` tries again, with the code if you know it; without it `slotwarden slot unblock NAME` gives the token another by the SO PIN, keys kept";
    212 GeneratedTooShort "generated-too-short" Wrong
        "the token or an application allows too few characters for a generated code" "use a manual code, or a token and applications that allow at least 22 characters";

    301 SlotAbsent "slot-absent" Later
        "no token matches the slot" "connect the HSM or correct `token` in the configuration; the slot comes back by itself";
    302 SlotAmbiguous "slot-ambiguous" Wrong
        "several tokens match the slot" "add the serial to `token` in the configuration";
    303 SlotUninitialised "slot-uninitialised" Wrong
        "the token has no user PIN yet" "`slotwarden slot init NAME`";
    304 SlotHasToken "slot-has-token" Wrong
        "the slot has, or had, a token with a user PIN or objects" "nothing was erased; to bring it back `slotwarden slot activate NAME` with its code, or `slotwarden slot unblock NAME` with the SO PIN; to end its life `slotwarden slot decommission NAME`";
    305 SlotBlocked "slot-blocked" WaitsForPeople
        "the token has blocked its user PIN" "`slotwarden slot unblock NAME` gives it another by the SO PIN; the keys are kept";
    306 SlotCoolingDown "slot-cooling-down" Later
        "the slot waits after a refused last try" "wait as long as `slotwarden slot show` says";
    307 SlotDoubtful "slot-doubtful" WaitsForPeople
        "a call to the token is unanswered" "wait for the HSM; `slotwarden slot deactivate NAME --confirm \"end call\"` ends the HSM worker";
    308 LastTryUnconfirmed "last-try-unconfirmed" WaitsForPeople
        "another wrong code could block the token" "be sure of the code, then repeat with --confirm \"last try\"";
    309 SlotNotActive "slot-not-active" Wrong
        "the slot is not active" "`slotwarden slot activate NAME`";
    310 ModeAlready "mode-already" Wrong
        "the slot is in this mode already" "to replace the code use `slot change-code`";
    311 TokenReplaced "token-replaced" WaitsForPeople
        "a token with this label but another serial is in its place; its tries are not spent" "put the right token back, or name the new serial in `token` of the configuration";
    312 NoFreeToken "no-free-token" Wrong
        "the module offers no uninitialised token" "free one with the vendor's tool, or connect one";
    313 SeveralFreeTokens "several-free-tokens" Wrong
        "the module offers several uninitialised tokens" "name one with --free-slot";
    314 CallNotUnanswered "call-not-unanswered" Wrong
        "no call of this slot is unanswered" "nothing needs to be ended";
    315 AlreadyActive "already-active" Wrong
        "the slot is active" "nothing needs to be done";
    316 ApplicationUnreachable "application-unreachable" Wrong
        "an application of the slot could not be told to let go; nothing was changed" "mend the application, then try again; or accept that it was not told, with --accept-application and its name, which `slotwarden slot show` says";
    317 CodeOldOrNew "code-old-or-new" WaitsForPeople
        "the last change was interrupted: the token has the old code or the new one" "`slotwarden slot activate NAME` with the new code, then with the old one; if neither is known, `slotwarden slot unblock NAME` by the SO PIN";
    318 ActivationNeedsPerson "activation-needs-person" WaitsForPeople
        "the stored code is not tried without a person: it was refused, or its outcome stayed unknown twice" "`slotwarden slot activate NAME`";
    319 SoPinWrong "so-pin-wrong" Wrong
        "the token refused the SO PIN" "check it; the SO PIN has tries of its own";
    320 ActivateFirst "activate-first" Wrong
        "an earlier sealed code is kept until a code is accepted and settled" "`slotwarden slot activate NAME` first";
    321 KeptCode "kept-code" WaitsForPeople
        "the slot needs its manual code; a sealed code of an interrupted change is kept too" "give the code, or try the kept one with --confirm \"last try\" and no code";
    322 ManualCodeRules "manual-code-rules" WaitsForPeople
        "the token refused the sealed code: the manual code rules" "`slotwarden slot activate NAME` with the manual code; the sealed one is kept until a code is accepted";

    401 StoreMissing "store-missing" Wrong
        "the state directory was in use, and its store is missing" "restore the file; nothing was made in its place; if it is lost for good, `slotwarden daemon --new-store` makes another, and `slot unblock` opens the tokens";
    402 StoreUnreadable "store-unreadable" Wrong
        "the store is damaged" "restore the file from before; nothing was overwritten; if there is none, `slotwarden daemon --new-store` moves it aside and makes another";
    403 StoreNewer "store-newer" Wrong
        "the store was written by a newer version" "start that version; nothing was overwritten";
    404 StoreLocked "store-locked" Wrong
        "another daemon uses this state directory" "end that one first, or give this one a directory of its own";
    405 StoreFailed "store-failed" Wrong
        "the record could not be made durable, and the service has halted" "mend the disk and restart the daemon; the slot then finds out what its token has";
    406 SealMissing "seal-missing" Wrong
        "the key that protects the stored codes is not there" "bring back the key file or the systemd credential; if it is lost for good, `slotwarden daemon --new-store` makes another store, without the codes";
    407 SealWrong "seal-wrong" Wrong
        "the key does not open the stored codes" "bring back the key that belongs to this store; if it is lost for good, `slotwarden daemon --new-store` makes another store, without the codes";

    801 QuorumInvalid "quorum-invalid" Wrong
        "no such quorum: m of n needs 2 ≤ m ≤ n ≤ 16" "choose m and n within these bounds";
    802 ShareMistyped "share-mistyped" Wrong
        "a typing error: this is not a whole share" "compare the text group by group and enter it again; shares entered before are kept";
    803 ShareForeign "share-foreign" Wrong
        "a share of something else: another slot, another set, another kind or a newer version" "enter the share of the set that `slotwarden slot show` names; shares entered before are kept";
    804 ShareWrong "share-wrong" Wrong
        "the text is whole, but no such share was ever handed out" "it was altered or forged: find out by whom; shares entered before are kept";
    805 ShareOfAnother "share-of-another" NotAllowed
        "this share was handed out to somebody else" "each person enters their own; shares entered before are kept";
    806 SharesMissing "shares-missing" WaitsForPeople
        "fewer different shares than the quorum needs" "wait for more custodians; shares entered before are kept";

    701 ApprovalUnknown "approval-unknown" Wrong
        "no request with this id waits: it was used, withdrawn or too late, or the daemon was restarted" "`slotwarden approve` lists those that wait; give the order again for a new one";
    702 ApprovalOwn "approval-own" NotAllowed
        "you asked for this yourself: another person has to approve it" "have an approver or another administrator run `slotwarden approve ID`";
    703 ApprovalCodeWrong "approval-code-wrong" Wrong
        "this is not the code of that request" "have the person who asked read the code aloud; after three wrong ones somebody else has to approve";
    704 ApprovalBarred "approval-barred" NotAllowed
        "you gave three wrong codes for this request" "have somebody else approve it, or give the order again for a new one";
    705 ApprovalGiven "approval-given" Wrong
        "the request is approved already" "the person who asked gives the order once more";
    706 TooManyApprovals "too-many-approvals" Later
        "too many requests for an approval are under way" "use or withdraw one (`slotwarden approve ID --withdraw`), or wait until one is too old";
    707 TooFewPersons "too-few-persons" Wrong
        "two persons are needed: an administrator, and another administrator or approver" "add a [[person]] to the configuration and restart the daemon; several user ids of one person are one person";
    708 DualControlAlready "dual-control-already" Wrong
        "dual control is so already" "nothing needs to be done";
    709 DualControlOff "dual-control-off" Wrong
        "dual control is off: the configuration file counts as it is" "restart the daemon to use a changed file";
    710 ConfigurationSame "configuration-same" Wrong
        "the configuration file says what was approved" "nothing needs to be done";

    408 StoreNotLost "store-not-lost" Wrong
        "no store was lost here" "start the daemon without --new-store; nothing was changed";
    323 SoPinBlocked "so-pin-blocked" Wrong
        "the token has blocked its SO PIN: nobody can unblock it or erase it with PKCS#11" "activate the slot with its code; without it only the vendor's tool can reset the token, with its keys";
    324 SoPinMissing "so-pin-missing" Wrong
        "this needs the SO PIN" "give it at the prompt, with --so-pin-file or with --so-pin-fd";
    325 DeactivateFirst "deactivate-first" Wrong
        "the slot is active" "`slotwarden slot deactivate NAME` first; to replace the code of an active slot use `slot change-code`";
    326 SoPinNotWanted "so-pin-not-wanted" Wrong
        "the slot's token is not there, so its SO PIN cannot be proven" "connect the token; or, if it is gone for good, forget its codes with `slot decommission NAME --without-token`";
    327 TokenIsThere "token-is-there" Wrong
        "the slot's token is there: forgetting its codes alone would leave its keys behind" "`slotwarden slot decommission NAME` with the SO PIN erases it";
    328 DecommissionUnconfirmed "decommission-unconfirmed" WaitsForPeople
        "this ends the life of the slot: every key of its token is destroyed, and its sealed codes are forgotten" "be sure that nothing needs the keys, then repeat with --confirm \"decommission NAME\" (the name as configured)";

    807 ShareOutdated "share-outdated" Wrong
        "a share of a set that is void, superseded, or not the one asked for now" "enter your share of the set that `slotwarden slot show` names; shares entered before are kept";
    808 ShareRepeated "share-repeated" Wrong
        "this share was entered already" "another custodian's share is wanted; shares entered before are kept";
    809 ShareShownAlready "share-shown-already" NotAllowed
        "your share was shown to you already, and is never shown again" "type it back; if it is lost, `slotwarden slot share NAME --reset` and split again";
    810 ShareNotFetched "share-not-fetched" Wrong
        "you have no share of this set to type back" "fetch yours first: `slotwarden slot share NAME`";
    811 NoShareLeft "no-share-left" Wrong
        "every share of this set was handed out" "the custodians type theirs back now";
    812 TooFewCustodians "too-few-custodians" Wrong
        "a split needs n different persons who may hold a share" "give n persons the role custodian or administrator, or name exactly n with --custodians";
    813 NotInRoster "not-in-roster" NotAllowed
        "you are not one of the persons this is for" "`slotwarden slot show NAME` names them";
    814 PartsInvalid "parts-invalid" Wrong
        "a code in parts needs 2 to 8 different persons who may hold one, and is manual" "name persons with the role custodian or administrator";
    815 PartRepeated "part-repeated" Wrong
        "your part was entered already" "the others' parts are wanted; `slotwarden slot share NAME --reset` begins again";
    816 PartsTooLong "parts-too-long" Wrong
        "the parts together are longer than 64 characters or than the token allows" "agree on shorter parts; each has at least 8 characters";
    817 RosterInvalid "roster-invalid" Wrong
        "too many persons, or one named twice" "name each of at most 16 persons once";
    818 NothingCollected "nothing-collected" Wrong
        "nothing is being collected or handed out for this slot" "`slotwarden slot show NAME` says what it waits for";
    819 CollectionUnderWay "collection-under-way" Later
        "people are entering shares or parts for another order of this slot" "finish it, or end it with `slotwarden slot share NAME --reset`";
    820 TooManyCollections "too-many-collections" Later
        "two slots collect shares or parts already" "finish one of them; `slotwarden status` names them";
    821 CodeIsShared "code-is-shared" Wrong
        "the code is known in shares" "`slotwarden slot split NAME` makes a new set";

    901 LevelNotCards "level-not-cards" Wrong
        "smart card operations are only offered at appliance security level `cards`" "set `security_level = \"cards\"` in the configuration and restart the daemon";
    902 CeremonyUnderWay "ceremony-under-way" Later
        "another ceremony is under way: there is one at a time" "`slotwarden ceremony show` names it and who began it; wait for its end, or have it cancelled";
    903 NoCeremony "no-ceremony" Wrong
        "no such ceremony is under way" "`slotwarden status` says what is";
    904 CeremonyOfOthers "ceremony-of-others" NotAllowed
        "you neither began this ceremony nor are wanted in it" "have whoever began it, or an administrator, do this";
    905 NoReader "no-reader" Later
        "no usable card reader is there" "connect a reader with a keypad; `slotwarden card list` says why others are not used";
    906 UnknownReader "unknown-reader" Wrong
        "no usable card reader has this name" "`slotwarden card list` shows the names, and why others are not used";
    907 NothingAsked "nothing-asked" Wrong
        "the ceremony asks nothing now" "`slotwarden ceremony watch` says what it waits for";
    908 SecondPersonWanted "second-person-wanted" NotAllowed
        "the last try of a PIN needs an approver or administrator who neither began the ceremony nor holds the card" "have such a person answer";
    909 CeremonyCancelled "ceremony-cancelled" Wrong
        "the ceremony was cancelled; what was in force before is in force" "begin it again";
    910 CeremonyTimedOut "ceremony-timed-out" Later
        "nobody went on in time; what was in force before is in force" "begin it again when everybody is there";
    911 CeremonyNotNow "ceremony-not-now" Later
        "the HSM is at work for this ceremony and cannot be interrupted" "wait for its answer";
    912 HoldersInvalid "holders-invalid" Wrong
        "each share needs another person, who may hold one" "name as many different persons with the role custodian or administrator as there are shares";
    913 ReaderLost "reader-lost" Later
        "the card reader is gone; what was in force before is in force" "connect it, then begin again";
    914 ReaderSilent "reader-silent" Later
        "the card reader does not answer" "unplug it and connect it again, then begin again";
    915 ReaderBusy "reader-busy" Later
        "the card reader is still doing something else" "wait until its pad shows nothing, then begin again";

    920 CardRepeated "card-repeated" Wrong
        "this card, or another one with the same share, was used in this ceremony already" "insert another card";
    921 CardIsSource "card-is-source" Wrong
        "this is the card that is being copied" "insert another card";
    922 CardOfSet "card-of-set" Wrong
        "this card holds a share of a set that is in force" "insert another card; nothing was written";
    923 CardForeign "card-foreign" Wrong
        "this card is of another cluster or another slot" "insert a card of this one; nothing was written and no try was spent";
    924 CardSuperseded "card-superseded" Wrong
        "the set of this card is no longer in force" "insert a card of the set that `slotwarden card list` shows as in force";
    925 CardVoid "card-void" Wrong
        "the set of this card never came into force: its making was interrupted" "insert another card; this one may be overwritten";
    926 CardOfOtherSet "card-of-other-set" Wrong
        "this card is of another set than those before it" "insert a card of the same set";
    927 CardOtherKind "card-other-kind" Wrong
        "this card holds something else than what is wanted" "insert the right card";
    928 CardBlank "card-blank" Wrong
        "nothing of ours is on this card" "insert the right card";
    929 CardNotOurs "card-not-ours" Wrong
        "what is on this card is no share" "insert the right card";
    930 CardNewer "card-newer" Wrong
        "the share on this card is of a newer version" "use the version of Slotwarden that wrote it";
    931 CardForged "card-forged" Wrong
        "the share on this card was altered or forged" "find out by whom; insert another card";
    932 CardBlocked "card-blocked" Wrong
        "the PIN of this card is blocked" "insert another card; a share whose cards are all blocked is lost: `slotwarden card lost`";
    933 CardDeclaredLost "card-declared-lost" Wrong
        "this card was declared lost" "find out where it was; insert another card";
    934 CardUnknown "card-unknown" Wrong
        "no card that we know how to use" "insert a card with the files of the profile `iso7816-files`, or an OpenPGP card";
    935 CardWithoutSerial "card-without-serial" Wrong
        "the card does not say its serial number" "insert another card";
    936 CardNotBlank "card-not-blank" Wrong
        "something is on the card, and nobody agreed that it is lost" "insert a blank card, or begin with --overwrite";
    937 CardFull "card-full" Wrong
        "there is no room on the card" "insert another card";
    938 CardFaulty "card-faulty" Wrong
        "the card or its reader did not do what was asked" "try once more; if it stays so, use another card or another reader";
    939 CardReadBackDiffers "card-read-back-differs" Wrong
        "the card gave back something else than was written" "do not use this card any more; insert another one";
    940 CardPulled "card-pulled" Later
        "the card was taken out in the middle of a step" "insert it again and leave it until it is asked back";
    941 CardTornWrite "card-torn-write" Later
        "the card was taken out while it was written: it holds what was there, the new share, or nothing" "insert it again: it is written once more";
    942 CardInUse "card-in-use" Later
        "another program uses the card" "end that program, then say yes to another try";
    943 CardNotExpected "card-not-expected" Wrong
        "another card than the one that was taken out in the middle" "insert that one again";
    944 CardPinWrong "card-pin-wrong" Wrong
        "the card refused the PIN" "`slotwarden ceremony watch` says how many tries are left";
    945 CardPinOldOrNew "card-pin-old-or-new" WaitsForPeople
        "the card was interrupted while its PIN was changed: it has the old one or the new one" "insert it again and type the new PIN once: that decides";
    946 CardPinNotChanged "card-pin-not-changed" Wrong
        "the PIN was not changed: the old one counts" "change it now";
    947 CardPinNeverChanged "card-pin-never-changed" Wrong
        "the card is on the PIN it came with, and nothing is kept behind such a PIN" "change it on the pad when the pad asks";
    948 PadTimedOut "pad-timed-out" Later
        "nobody typed on the pad in time; no try was spent" "say yes to another try";
    949 PadCancelled "pad-cancelled" Later
        "somebody pressed cancel on the pad; no try was spent" "say yes to another try";
    950 PadMismatch "pad-mismatch" Wrong
        "the two new PINs were not the same; nothing was changed" "say yes to another try";
    951 PadLength "pad-length" Wrong
        "the PIN was too short or too long; nothing was changed" "say yes to another try; the pad takes 6 to 12 digits, some fewer";

    960 NoBackupKey "no-backup-key" Wrong
        "there is no backup key yet" "`slotwarden backup create-set` makes one";
    961 BackupKeyExists "backup-key-exists" Wrong
        "there is a backup key already" "`slotwarden backup replace-set` makes another set of it, `slotwarden backup rotate` another key";
    962 KeyIdDiffers "key-id-differs" Wrong
        "the cards do not give the key that they name; what they gave was wiped" "at least one of them is damaged or forged: verify each with `slotwarden backup verify-set`";
    963 RehearsalFailed "rehearsal-failed" Wrong
        "the new cards do not give the key; nothing is in force that was not before" "begin again with other cards";
    964 WouldBreakQuorum "would-break-quorum" Wrong
        "without this card too few shares of the set would be left" "make a copy or another set first";
    965 TooManyCopies "too-many-copies" Wrong
        "there are as many cards of this share as there may be" "declare one lost or erase one first";
    966 TooManyCards "too-many-cards" Wrong
        "no more cards can be kept account of" "erase cards that are not used any more";
    967 UnknownCard "unknown-card" Wrong
        "no card with this serial is known" "`slotwarden card list` shows those that are";
    968 NoSlotCards "no-slot-cards" Wrong
        "the slot has no cards for this" "`slotwarden slot cards NAME` makes a set";
    969 SlotHasCards "slot-has-cards" WaitsForPeople
        "the slot is opened with cards" "`slotwarden slot activate NAME` calls its users to the pad";
    970 CodeNotOnTop "code-not-on-top" Wrong
        "the cards of this slot are not on top of a code" "leave the code out";
    972 SoPinNotTaken "so-pin-not-taken" Wrong
        "the token did not take the new SO PIN; the old one is in force" "look at the HSM, then begin again";
    973 SoPinOldOrNew "so-pin-old-or-new" WaitsForPeople
        "changes of the SO PIN were interrupted, and nobody knows which cards count" "use the cards once: `slotwarden slot unblock NAME` with the SO PIN of those that the token takes decides";
    971 CardsNeedManual "cards-need-manual" Wrong
        "a code on top of cards is known to people" "give the new code";
    974 KeyNotAdopted "key-not-adopted" Wrong
        "the key that these cards name is not the one that is wanted; no key was put anywhere" "begin again with the cards of the right key";
    975 CeremonyGivenUp "ceremony-given-up" Later
        "too many cards and PINs in a row did not do" "begin again when the right cards and people are there";

    1001 TransferUnderWay "transfer-under-way" Later
        "an export or a restore is under way" "`slotwarden status` shows it; wait until it ended, or give one up that cannot end with `slotwarden backup abandon`";
    1002 NothingPrepared "nothing-prepared" Wrong
        "no file is prepared for this slot" "`slotwarden backup restore FILE` prepares one";
    1003 ImportConflicts "import-conflicts" Wrong
        "the token has a key with the same id and another value; nothing was imported" "compare the two; destroy or rename the one in the token, then begin again";
    1004 ImportHalfway "import-halfway" WaitsForPeople
        "the import began and did not end" "mend the cause that `slotwarden status` shows, then `slotwarden backup import` goes on; what cannot be mended is given up with `slotwarden backup abandon`";
    1005 ExportLevelNone "export-level-none" Wrong
        "nothing is exported or restored at this appliance security level" "set `security_level = \"cards\"` and make a backup key with `slotwarden backup create-set`, or, for exports alone, set it to \"passphrase\"";
    1006 SlotWithoutBackupKey "slot-without-backup-key" WaitsForPeople
        "a slot's token does not have the keys of the backup key" "`slotwarden backup restore-key --slot NAME` brings them";
    1007 NoSlotChosen "no-slot-chosen" Wrong
        "no slot is named" "name at least one slot";
    1008 KeysCannotLeave "keys-cannot-leave" Wrong
        "keys of the slot cannot leave its token, and nobody accepted that by name" "repeat with --without SLOT/KEY for each of them; keys made with CKA_EXTRACTABLE, without templates, of 8 KiB at most can leave";
    1009 ExportFileInvalid "export-file-invalid" Wrong
        "the file is no whole export: it was cut, altered or written by something else" "take another copy of it; nothing was imported";
    1010 ExportOfAnotherKey "export-of-another-key" Wrong
        "the export was not made with this backup key" "use the cards of the key that `slotwarden verify` names; nothing was imported";
    1011 NoSuchSection "no-such-section" Wrong
        "the export holds nothing of this slot" "`slotwarden verify` names the slots it holds; nothing was imported";
    1012 KeyNotRestorable "key-not-restorable" Wrong
        "the token does not take a key of the export as it was" "the log names it; restore into a token of the same kind";
    1013 ImportPlanOutdated "import-plan-outdated" Wrong
        "the file is not the one that the restore was planned for" "begin the restore again";
    1014 TransferFiles "transfer-files" Wrong
        "files of the export or restore could not be read or written" "read the log, free space in the state directory, then try again";

    1101 NoCluster "no-cluster" Wrong
        "this node is in no cluster" "`slotwarden cluster request FILE` here and `slotwarden cluster invite` at a member bring it into one";
    1102 HasOwnCluster "has-own-cluster" Wrong
        "this node has a backup key, card sets or a cluster of its own, which joining would end" "have it join with a new state directory, or have the other node join this one; nothing was changed";
    1103 OtherCluster "other-cluster" Wrong
        "this is of another cluster" "take it to a node of that cluster; nothing was changed";
    1104 TooManyMembers "too-many-members" Wrong
        "a cluster has at most 8 nodes" "remove one first: `slotwarden cluster remove NODE FILE`";
    1105 MemberAlready "member-already" Wrong
        "this node is a member already" "nothing needs to be done; `slotwarden cluster export-roster FILE` writes the roster for it once more";
    1106 UnknownMember "unknown-member" Wrong
        "no member of the cluster has this name" "`slotwarden cluster show` names them";
    1107 JoinRequestInvalid "join-request-invalid" Wrong
        "the file is no whole request to join: it was cut, altered or written by something else" "take another copy of it, or have the node make one anew; nothing was changed";
    1108 FingerprintDiffers "fingerprint-differs" Wrong
        "the fingerprint is not that of the file" "compare again with the person at the other node; if it stays so, somebody altered the file: find out where";
    1109 RosterFileInvalid "roster-file-invalid" Wrong
        "the file is no whole roster: it was cut, altered or written by something else" "take another copy of it; nothing was changed";
    1110 NotRosterMember "not-roster-member" Wrong
        "this node is no member in that roster" "have a member invite it: `slotwarden cluster request FILE` here, `slotwarden cluster invite` there; nothing was changed";
    1111 RosterOld "roster-old" Wrong
        "this comes from an older roster than the one in force here" "`slotwarden cluster export-roster FILE` here and `slotwarden cluster follow FILE` at the other node, then have it made anew; nothing was changed";
    1112 RosterNewer "roster-newer" Wrong
        "this comes from a newer roster than the one in force here" "take the newer roster first: `slotwarden cluster follow FILE`, then give this once more; nothing was changed";
    1113 RosterNotNext "roster-not-next" Wrong
        "a roster between the one in force and this one is missing" "take a file with all of them: `slotwarden cluster export-roster FILE` at a node that has the newest; nothing was changed";
    1114 RosterDiverged "roster-diverged" WaitsForPeople
        "there are two rosters of one epoch: the cluster is divided, and no keys are exchanged" "compare `slotwarden cluster show` at all nodes and agree on one, and have two persons choose it at each: `slotwarden cluster choose FILE`";
    1115 UnknownSource "unknown-source" Wrong
        "the package is of a node that is not in our roster" "if the node was removed, throw the package away; if it is new, `slotwarden cluster follow FILE` first; nothing was imported";
    1116 NotForUs "not-for-us" Wrong
        "the package is not for this node" "have its source make one that is: `slotwarden sync export FILE --to NODE`; nothing was imported";
    1117 PackageInvalid "package-invalid" Wrong
        "the file is no whole package: it was cut, altered or written by something else" "take another copy of it; nothing was imported";
    1118 PackageOld "package-old" Wrong
        "a later package of its source was taken already" "what only this one brings comes with its next one: have its source make it, `slotwarden sync export FILE`; nothing was imported";
    1119 PackageForked "package-forked" WaitsForPeople
        "its source made another package with the same number: its disk was put back, or its key is in other hands" "find out which; until then take nothing from it; `slotwarden cluster remove NODE FILE` shuts it out; nothing was imported";
    1120 PackageOfAnotherKey "package-of-another-key" Wrong
        "the keys in the package are not wrapped under the backup key of this cluster" "have its source take the newest roster and bring the backup key (`slotwarden backup restore-key`), then make it anew; nothing was imported";
    1121 PackageNotOpened "package-not-opened" Wrong
        "the package does not open with the keys of this node" "it was made for keys that this node had before, or was forged by its source; have it made anew; nothing was imported";
    1122 NothingReceived "nothing-received" Wrong
        "no package waits to be imported" "`slotwarden sync import FILE` plans one";
    1123 NoTarget "no-target" Wrong
        "the package would be for nobody else" "name at least one other member; `slotwarden cluster show` names them";
    1124 PackageHalfway "package-halfway" WaitsForPeople
        "the import of a package began and did not end" "mend the cause that `slotwarden status` shows, then `slotwarden sync import` without a file goes on; what cannot be mended is given up with `slotwarden backup abandon`";
    1125 RosterNotOffered "roster-not-offered" Wrong
        "the roster is not the one that the order was approved for" "give the order again with the same file";
    1126 SlotWithoutUnwrapKey "slot-without-unwrap-key" WaitsForPeople
        "a slot's token does not have the key that unwraps what other members send" "`slotwarden backup restore-key --slot NAME` brings it";
    1127 RosterOfStranger "roster-of-a-stranger" Wrong
        "no member of the roster in force signed this one" "throw it away, and find out who made it; what a removed member signs counts no more; nothing was changed";
    1128 RemovesItself "removes-itself" Wrong
        "a node does not remove itself" "have another member do it: `slotwarden cluster remove NODE FILE` there; nothing was changed";
    1129 KeyNotRenewed "key-not-renewed" Wrong
        "the roster in force names this backup key already" "nothing needs to be done; `slotwarden backup rotate` makes another key";
    1130 NotDivided "not-divided" Wrong
        "the cluster is not divided: there is nothing to choose" "`slotwarden cluster follow FILE` takes a newer roster; nothing was changed";
    114 Zeroizing "zeroizing" Later
        "zeroize is under way" "wait until the daemon has started anew; then `slotwarden slot unblock NAME` gives a token another code";
    115 ZeroizeUnconfirmed "zeroize-unconfirmed" WaitsForPeople
        "this destroys every sealed code and the node key, and deactivates every slot" "be sure, then repeat with --confirm zeroize";
    1041 ImportNameTaken "import-name-taken" WaitsForPeople
        "since the import began somebody made another object under the name of one of its keys; it stays" "destroy or rename it, and the import goes on: `slotwarden backup import NAME`, or `slotwarden sync import` for a package; or give it up with `slotwarden backup abandon`";
    1040 UnwrapKeyGone "unwrap-key-gone" WaitsForPeople
        "the key that unwraps the file is not in the token any more" "give the import up with `slotwarden backup abandon`, then restore the file again";
    1030 TokenFull "token-full" Wrong
        "the token has no room for all keys of the import; what it made was destroyed again" "make room in the token, or restore into another one, then begin the restore again";
    1015 PassphraseMissing "passphrase-missing" Wrong
        "this needs a passphrase" "give it at the prompt, with --passphrase-file or with --passphrase-fd";
    1016 PassphraseTooShort "passphrase-too-short" Wrong
        "the passphrase has fewer than 14 characters" "take a longer one, for example five random words; nothing was exported";
    1017 PassphraseNotWanted "passphrase-not-wanted" Wrong
        "this is protected by cards, not by a passphrase" "leave the passphrase away";
    1018 PassphraseWrong "passphrase-wrong" Wrong
        "the passphrase is not the one of this file" "type it again; nothing was imported";
    1019 FileOfOtherLevel "file-of-other-level" Wrong
        "the file is protected in another way than this appliance's security level allows" "`slotwarden verify FILE` names its level: set `security_level` to it, restart, restore, and set it back";
    1020 NothingHalfway "nothing-halfway" Wrong
        "no import is under way that cannot end, or another one" "`slotwarden status` shows what is under way; a plan is given up with `slotwarden backup end-restore` or `slotwarden sync end`";
    1031 VendorProgramFailed "vendor-program-failed" Wrong
        "the backup program of the HSM's vendor did not do what it was told" "mend the cause that the log names, in the program's own words; then give the order again, or end a restore with `slotwarden backup end-restore`";
    1032 VendorProgramMissing "vendor-program-missing" Wrong
        "what the file holds of this slot only the backup program of the HSM's vendor takes back, and the slot names none" "name it in the slot's [[slot]] by export = \"vendor\" and `export_program`; nothing was imported";
}

/// A device failed, or we did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Fault {
    /// A PKCS#11 function returned this code.
    Pkcs11 {
        /// `CK_RV`.
        code: u64,
        /// Which function.
        function: Function,
    },
    /// The call is not answered yet; the device may still carry it out.
    Unanswered(Function),
    /// The HSM worker died during the call: nobody knows what the token did.
    WorkerLost(Function),
    /// The HSM worker cannot be started (path and loader's reason are in the log).
    WorkerUnavailable,
    /// The token disappeared.
    TokenGone,
    /// Both random sources repeat themselves or are constant.
    RandomStuck,
    /// The random sources could not be read.
    RandomUnavailable,
    /// A sealed code could not be opened: the seal key or the record is damaged.
    SealBroken,
    /// An application's adapter could not do its work.
    Application(ApplicationFault),
    /// The store could not make a record durable.
    StoreFailed,
    /// The settle directory could not be made durable.
    SettleFailed,
    /// The module answered what it cannot answer: it lies or is faulty.
    ModuleLies(Function),
    /// An invariant of ours is broken, with the number of the place; the service halts.
    Bug(u16),
    /// A zeroize was ordered: the service lets go of everything and ends.
    Zeroized,
    /// No memory, or no thread, to turn a passphrase into a key.
    OutOfMemory,
}

/// Why an application could not be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ApplicationFault {
    /// The hand-over file is not on a memory file system that cannot reach a disk.
    NotInMemory,
    /// The hand-over file could not be written.
    NotWritten,
    /// The hand-over file could not be removed.
    NotRemoved,
    /// The adapter gave no answer in time.
    Unanswered,
    /// The adapter's program could not be started.
    NotStarted,
    /// The adapter's program ended with this exit code (128 and the signal's number after
    /// a signal, as shells say it).
    Exited(u8),
    /// The time that the configuration gives the adapter passed; what it waited for was given up.
    TimedOut,
    /// Nobody answers where the adapter asks: service manager, application.
    Unreachable,
    /// The application or the service manager refused the order.
    Refused,
    /// The service manager's job for the unit failed.
    JobFailed,
    /// It was served and is not healthy.
    NotHealthy,
    /// It is active whatever we do: its own auto-activation is on.
    AutoActivation,
}

/// PKCS#11 functions we call. The text is the function's name. New ones go to the end: audit
/// records hold their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[allow(missing_docs)] // each variant is the PKCS#11 function of that name
pub enum Function {
    Initialize,
    GetSlotList,
    GetTokenInfo,
    GetSessionInfo,
    OpenSession,
    CloseSession,
    Login,
    Logout,
    SetPin,
    InitToken,
    InitPin,
    FindObjects,
    GenerateRandom,
    /// Not PKCS#11: making the module's files durable.
    Settle,
    /// A function we do not name.
    Other,
    CreateObject,
    DestroyObject,
    GetAttributeValue,
    WrapKey,
    UnwrapKey,
    Sign,
    Encrypt,
    GenerateKeyPair,
}

/// How a PKCS#11 operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum HsmFailure {
    /// The function returned this code.
    Pkcs11 {
        /// `CK_RV`.
        code: u64,
        /// Which function.
        function: Function,
    },
    /// The session was not public, so `C_Login` was not called.
    AlreadyLoggedIn,
    /// The token is gone; the call did not reach it.
    TokenGone,
    /// No worker runs; the call did not leave the daemon.
    NoWorker,
    /// The worker refused before any call changed the token.
    Refused(Refusal),
    /// Settling failed: what was changed may be lost by a power cut.
    NotSettled,
}

impl HsmFailure {
    /// The failure as people see it.
    #[must_use]
    pub const fn fault(self, function: Function) -> Fault {
        match self {
            HsmFailure::Pkcs11 { code, function } => Fault::Pkcs11 { code, function },
            HsmFailure::AlreadyLoggedIn | HsmFailure::Refused(_) => Fault::ModuleLies(function),
            HsmFailure::TokenGone => Fault::TokenGone,
            HsmFailure::NoWorker => Fault::WorkerUnavailable,
            HsmFailure::NotSettled => Fault::SettleFailed,
        }
    }
}

/// `CK_RV` values that decide something (PKCS#11 v3.1, section 6, "Return values").
pub mod rv {
    /// `CKR_FUNCTION_NOT_SUPPORTED`
    pub const FUNCTION_NOT_SUPPORTED: u64 = 0x54;
    /// `CKR_PIN_INCORRECT`
    pub const PIN_INCORRECT: u64 = 0xA0;
    /// `CKR_PIN_INVALID`
    pub const PIN_INVALID: u64 = 0xA1;
    /// `CKR_PIN_LEN_RANGE`
    pub const PIN_LEN_RANGE: u64 = 0xA2;
    /// `CKR_PIN_LOCKED`
    pub const PIN_LOCKED: u64 = 0xA4;
    /// `CKR_SESSION_EXISTS`
    pub const SESSION_EXISTS: u64 = 0xB6;
    /// `CKR_SESSION_READ_ONLY`
    pub const SESSION_READ_ONLY: u64 = 0xB5;
    /// `CKR_USER_ALREADY_LOGGED_IN`: never taken for "code correct"
    pub const USER_ALREADY_LOGGED_IN: u64 = 0x100;
    /// `CKR_USER_NOT_LOGGED_IN`
    pub const USER_NOT_LOGGED_IN: u64 = 0x101;
    /// `CKR_USER_PIN_NOT_INITIALIZED`
    pub const USER_PIN_NOT_INITIALIZED: u64 = 0x102;
    /// `CKR_ARGUMENTS_BAD`
    pub const ARGUMENTS_BAD: u64 = 0x07;
    /// `CKR_DEVICE_MEMORY`: the token has no room for another object
    pub const DEVICE_MEMORY: u64 = 0x31;
    /// `CKR_DEVICE_ERROR`
    pub const DEVICE_ERROR: u64 = 0x30;
    /// `CKR_TOKEN_WRITE_PROTECTED`
    pub const TOKEN_WRITE_PROTECTED: u64 = 0xE2;
    /// `CKR_TOKEN_NOT_PRESENT`
    pub const TOKEN_NOT_PRESENT: u64 = 0xE0;
}

impl Fault {
    /// The stable number.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Fault::Pkcs11 { .. } => 501,
            Fault::Unanswered(_) => 502,
            Fault::WorkerLost(_) => 503,
            Fault::WorkerUnavailable => 504,
            Fault::TokenGone => 505,
            Fault::RandomStuck => 506,
            Fault::RandomUnavailable => 507,
            Fault::SealBroken => 508,
            Fault::Application(_) => 509,
            Fault::StoreFailed => 510,
            Fault::SettleFailed => 511,
            Fault::ModuleLies(_) => 512,
            Fault::Zeroized => 513,
            Fault::Bug(_) => 599,
            Fault::OutOfMemory => 513,
        }
    }

    /// The stable name, for scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Pkcs11 { .. } => "pkcs11",
            Fault::Unanswered(_) => "call-unanswered",
            Fault::WorkerLost(_) => "worker-lost",
            Fault::WorkerUnavailable => "worker-unavailable",
            Fault::TokenGone => "token-gone",
            Fault::RandomStuck => "random-stuck",
            Fault::RandomUnavailable => "random-unavailable",
            Fault::SealBroken => "seal-broken",
            Fault::Application(_) => "application",
            Fault::StoreFailed => "store-failed",
            Fault::SettleFailed => "settle-failed",
            Fault::ModuleLies(_) => "module-lies",
            Fault::Zeroized => "zeroized",
            Fault::Bug(_) => "bug",
            Fault::OutOfMemory => "out-of-memory",
        }
    }

    /// What is so, for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Fault::Pkcs11 { .. } => "the HSM answered with an error",
            Fault::Unanswered(_) => "the HSM has not answered the call yet and may still carry it out",
            Fault::WorkerLost(_) => "the HSM worker died during the call: nobody knows what the token did",
            Fault::WorkerUnavailable => "the HSM worker cannot be started",
            Fault::TokenGone => "the token disappeared",
            Fault::RandomStuck => "both random sources repeat themselves",
            Fault::RandomUnavailable => "the random sources cannot be read",
            Fault::SealBroken => "a stored code cannot be opened",
            Fault::Application(_) => "an application could not be served",
            Fault::StoreFailed => "the store could not make a record durable",
            Fault::SettleFailed => "the module's files could not be made durable",
            Fault::ModuleLies(_) => "the PKCS#11 module answered what it cannot answer",
            Fault::Zeroized => "zeroize was ordered: the sealed codes are destroyed, and the service ends",
            Fault::Bug(_) => "Slotwarden broke a rule of its own and has halted",
            Fault::OutOfMemory => "the machine has not the memory that turns a passphrase into a key",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Fault::Pkcs11 { .. } => "look the code up in the HSM's manual; try again when the HSM is well",
            Fault::Unanswered(_) => "wait for the HSM; `slotwarden slot show` says when it answered",
            Fault::WorkerLost(_) => "the slot decides by itself what the token has; see `slotwarden slot show`",
            Fault::WorkerUnavailable => "check `[hsm] module`; the log has the path and the loader's reason",
            Fault::TokenGone => "connect the HSM; the slot comes back by itself",
            Fault::RandomStuck | Fault::RandomUnavailable => {
                "do not use this machine for keys; check the HSM's and the system's random source"
            }
            Fault::SealBroken => "bring back the seal key that belongs to this store",
            Fault::Application(what) => what.remedy(),
            Fault::StoreFailed => "mend the disk and restart the daemon",
            Fault::SettleFailed => "mend the disk of `settle_dir`, then change the code again",
            Fault::ModuleLies(_) => "report it to the module's vendor with the audit log",
            Fault::Zeroized => "wait until the daemon has started anew; then `slotwarden slot unblock NAME`",
            Fault::Bug(_) => "restart the daemon and report the number; no code is lost",
            Fault::OutOfMemory => {
                "free memory: `slotwarden verify` says how much the file takes, a new export takes 256 MiB"
            }
        }
    }
}

impl ApplicationFault {
    /// One of each kind, for tables.
    pub const ALL: [ApplicationFault; 12] = [
        ApplicationFault::NotInMemory,
        ApplicationFault::NotWritten,
        ApplicationFault::NotRemoved,
        ApplicationFault::Unanswered,
        ApplicationFault::NotStarted,
        ApplicationFault::Exited(1),
        ApplicationFault::TimedOut,
        ApplicationFault::Unreachable,
        ApplicationFault::Refused,
        ApplicationFault::JobFailed,
        ApplicationFault::NotHealthy,
        ApplicationFault::AutoActivation,
    ];

    /// What is so, for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            ApplicationFault::NotInMemory => "the hand-over file is not on a memory file system",
            ApplicationFault::NotWritten => "the hand-over file could not be written",
            ApplicationFault::NotRemoved => "the hand-over file could not be removed",
            ApplicationFault::Unanswered => "the adapter gave no answer in time",
            ApplicationFault::NotStarted => "the adapter's program could not be started",
            ApplicationFault::Exited(_) => "the adapter's program reported a failure",
            ApplicationFault::TimedOut => "the application was not done in the adapter's time",
            ApplicationFault::Unreachable => "the application or its service manager cannot be reached",
            ApplicationFault::Refused => "the application or its service manager refused the order",
            ApplicationFault::JobFailed => "the service manager's job for the unit failed",
            ApplicationFault::NotHealthy => "the application was served and is not healthy",
            ApplicationFault::AutoActivation => "the application is active without our token PIN",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            ApplicationFault::NotInMemory => {
                "name a path on tmpfs or ramfs, encrypt swap or mount with noswap, then activate the slot again"
            }
            ApplicationFault::NotWritten | ApplicationFault::NotRemoved => {
                "mend the application's path or permissions, then activate the slot again"
            }
            ApplicationFault::Unanswered => "look at the application; `slotwarden status` shows a late answer",
            ApplicationFault::NotStarted => "correct `command` and `user` of the application; the log says why",
            ApplicationFault::Exited(_) => "look at the program's own log, mend it, then activate the slot again",
            ApplicationFault::TimedOut => "look at the application; raise its `timeout_s` if it only is slow",
            ApplicationFault::Unreachable => "start the application or correct its address; the log says why",
            ApplicationFault::Refused => "give the service the right to it; the log has the answer",
            ApplicationFault::JobFailed => "`systemctl status` and `journalctl -u` of the unit say why",
            ApplicationFault::NotHealthy => "read the application's own log; the slot itself is open",
            ApplicationFault::AutoActivation => "switch off its auto-activation, then activate the slot again",
        }
    }
}

impl Function {
    /// The PKCS#11 name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Function::Initialize => "C_Initialize",
            Function::GetSlotList => "C_GetSlotList",
            Function::GetTokenInfo => "C_GetTokenInfo",
            Function::GetSessionInfo => "C_GetSessionInfo",
            Function::OpenSession => "C_OpenSession",
            Function::CloseSession => "C_CloseSession",
            Function::Login => "C_Login",
            Function::Logout => "C_Logout",
            Function::SetPin => "C_SetPIN",
            Function::InitToken => "C_InitToken",
            Function::InitPin => "C_InitPIN",
            Function::FindObjects => "C_FindObjects",
            Function::GenerateRandom => "C_GenerateRandom",
            Function::Settle => "settle",
            Function::Other => "another function",
            Function::CreateObject => "C_CreateObject",
            Function::DestroyObject => "C_DestroyObject",
            Function::GetAttributeValue => "C_GetAttributeValue",
            Function::WrapKey => "C_WrapKey",
            Function::UnwrapKey => "C_UnwrapKey",
            Function::Sign => "C_Sign",
            Function::Encrypt => "C_Encrypt",
            Function::GenerateKeyPair => "C_GenerateKeyPair",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_number_and_name() {
        for (index, one) in Refusal::ALL.iter().enumerate() {
            for other in &Refusal::ALL[index + 1..] {
                assert_ne!(one.number(), other.number());
                assert_ne!(one.name(), other.name());
            }
            assert!(!one.sentence().is_empty() && !one.remedy().is_empty());
        }
    }
}
