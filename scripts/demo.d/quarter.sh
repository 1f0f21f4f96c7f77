# A quarter of the CA in a minute; `scripts/demo` sources this. The clock is the usual one: the CA's settings say seconds
# where an installation says days.

# Short names to read: everything is in the part's folder.
cd "$work"
quietly() {
    "$@" >quiet.log 2>&1 || { cat quiet.log >&2; exit 1; }
}
ca() { run touchstone-signer ca "$1" --data data "${@:2}"; }
# Whether a CA is in a state, or gone.
state_is() {
    local status
    status=$(touchstone-signer ca status --data data) || exit 1
    case $2 in
        gone) ! grep -qE "^$1 +(prepared|awaiting-root|published|active|retiring) " <<<"$status" ;;
        *) grep -qE "^$1 +$2 " <<<"$status" ;;
    esac
}
await_state() {
    for _ in $(seq 300); do
        state_is "$@" && return
        sleep 0.1
    done
    echo "demo: $1 never was $2" >&2
    exit 1
}

certificate=state/demo/certificate.pem
logins=0
declare -A ca_named=()
signer_of_certificate() {
    local name
    name=$(openssl x509 -in "$certificate" -noout -issuer -nameopt multiline | sed -n 's/.*commonName *= //p')
    echo "${ca_named[$name]}"
}
# One login. The certificate before it is used once more, whichever CA signed it; the new one is shown to openssl together
# with the trust bundle of the moment.
log_in() {
    local before=""
    if [[ -e "$certificate" ]] && openssl x509 -in "$certificate" -noout -checkend 3 >/dev/null; then
        quietly touchstone whoami --cluster demo "${pin[@]}"
        before="; the one before, of $(signer_of_certificate), opens the API server"
    fi
    quietly touchstone login --cluster demo --group "$group" --reason "INC-4211 checkout latency" "${pin[@]}"
    touchstone-signer ca export-bundle --data data >bundle-of-the-day.pem
    quietly openssl verify -purpose sslclient -CAfile bundle-of-the-day.pem -untrusted "$certificate" "$certificate"
    logins=$((logins + 1))
    printf '%(%H:%M:%S)T  login %2d: signed by %s, openssl verify OK%s\n' -1 "$logins" "$(signer_of_certificate)" "$before"
}
log_in_until() {
    until state_is "$@"; do
        log_in
        sleep 2
    done
}

step "An engineer with an enrolled key, and the security team with a YubiKey of its own"
secrets
pin=(--pin-file pin)
setup=(touchstone key setup --pin-file factory-pin --new-pin-file pin --new-puk-file puk)
virtual_yubikey "$work" --serial 12345678 --touch auto
virtual_yubikey "$work/team" --serial 34567890 --touch auto
# shellcheck disable=SC1091
source pcscd.env
engineers_root=(--attestation-root attestation-root.pem)
teams_root=(--attestation-root team/attestation-root.pem)
quietly "${setup[@]}"
quietly touchstone key generate "${pin[@]}" "${engineers_root[@]}"
{
    printf 'apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: demo\nusers:\n'
    touchstone key enrol --user "$user" --team payments "${engineers_root[@]}" --quiet
    printf 'rules:\n  - { name: payments on call, who: { teams: [payments] }, groups: ["%s"], decision: auto }\n' "$group"
} >policy.yaml
quietly as team "${setup[@]}"
run touchstone key list
as team run touchstone key list

step "The signer, with a quarter of seconds: its first CA waits for the root"
cat >ca.yaml <<EOT
apiVersion: touchstone.dev/v1
kind: CaSettings
schedule:
  root: ceremony           # days in earnest:
  lifetime: 120s           # 120
  activateEvery: 24s       # 90
  prepareAfter: 8s         # 70
  publishBefore: 4s        # 14
  keepAfterLastLeaf: 4s    # 1
  longestLeaf: 14s         # 1
EOT
run cat ca.yaml
echo "${dim}\$ touchstone-signer standalone --data data --ca-settings ca.yaml …$reset"
touchstone-signer standalone --data data --listen 127.0.0.1:0 --policy policy.yaml --ca-settings ca.yaml \
    "${engineers_root[@]}" --ready-file ready.json >touchstone-signer.log 2>&1 &
children+=($!)
await ready.json $! touchstone-signer.log
server=$(sed -n 's/.*"server": *"\([^"]*\)".*/\1/p' ready.json)
await_state ca-1 awaiting-root
ca status

step "The first ceremony: the root, made in the team's YubiKey, one touch"
cat >team/root.yaml <<EOT
apiVersion: touchstone.dev/v1
kind: Ceremony
makes: root
subject: Example Root 1
validityDays: 3650
pathLength: 1
present: [ { name: Carol Example, role: key holder }, { name: Dan Example, role: witness } ]
EOT
run cat team/root.yaml
root=team/root.pem
as team run touchstone ca root init --plan team/root.yaml --out "$root" --yes "${pin[@]}" "${teams_root[@]}"

# The team signs the CA that waits; further arguments are for the import.
ceremony() {
    local id=$1 at=team/$1 name
    touchstone-signer ca request --data data >"$at.csr"
    name=$(openssl req -in "$at.csr" -noout -verify -subject -nameopt multiline 2>/dev/null | sed -n 's/.*commonName *= //p')
    ca_named[$name]=$id
    cat >"$at.yaml" <<EOT
apiVersion: touchstone.dev/v1
kind: Ceremony
makes: issuing-ca
subject: $name
validityDays: 1
pathLength: 0
extendedKeyUsage: [clientAuth]
root: "sha256:$(openssl x509 -in "$root" -noout -fingerprint -sha256 | sed 's/.*=//; s/://g' | tr A-F a-f)"
present: [ { name: Carol Example, role: key holder }, { name: Dan Example, role: witness } ]
EOT
    run cat "$at.yaml"
    as team run touchstone ca sign --request "$at.csr" --plan "$at.yaml" --root "$root" --out "$at.pem" --yes "${pin[@]}" "${teams_root[@]}"
    ca import "$at.pem" "${@:2}"
}
step "The second ceremony: the root signs the first issuing CA"
ceremony ca-1 --root "$root"
await_state ca-1 active

step "The quarter begins: logins, one after the other"
run touchstone config set-cluster demo --server "$server" --ca data/server-ca.pem \
    --trust-bundle data/trust-bundle.pem --user "$user"
log_in_until ca-2 awaiting-root

step "The next CA is prepared and waits for the team; the first one signs meanwhile"
ca status
ceremony ca-2
log_in_until ca-2 active

step "Its canary certificate authenticated: it signs; certificates of the one before go on"
ca status
log_in_until ca-1 gone
log_in

step "The last certificate of the first CA has ended: it is gone, and its key with it"
ca status
run ls data/ca/keys
as team run touchstone ca verify --record team/ca-2.record.json --certificate team/ca-2.pem --root "$root" "${teams_root[@]}"
run touchstone-signer audit verify --data data

step "Shown in $((SECONDS - started)) seconds"
cat <<EOT
The root's key was made in the team's YubiKey and signed twice, each time by a reviewed file and one touch; a CA was followed by the next one,
which signed for nobody before its own certificate had authenticated; $logins logins on the way, none refused, each certificate good in
openssl's eyes by the bundle of its day; and the old CA is gone.
EOT
