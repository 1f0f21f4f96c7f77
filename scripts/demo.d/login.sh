# The main job; `scripts/demo` sources this.

roots=() pin=()
if [[ -n "$real" ]]; then
    step "Your YubiKey"
    run touchstone key list
    cat <<EOT
This makes a key in the retired slot $slot, or uses the one that is there, and writes a certificate beside it. Nothing else on the card changes.
The key stays: \`ykman piv keys delete $slot\` removes it.
EOT
    read -rp "Go on? [y/N] " answer </dev/tty
    [[ "$answer" == [yY]* ]] || { echo "Nothing was changed."; exit 0; }
else
    step "A virtual YubiKey, in a virtual reader of the real pcscd"
    virtual_yubikey "$work" --serial 12345678 --touch late
    # shellcheck disable=SC1091
    source "$work/pcscd.env"
    roots=(--attestation-root "$work/attestation-root.pem")

    secrets
    pin=(--pin-file "$work/pin")
    echo "A new card has the factory's PIN, PUK and management key. Touchstone makes no key behind those:"
    refused touchstone key generate --slot "$slot" --pin-file "$work/factory-pin"
    run touchstone key setup --pin-file "$work/factory-pin" --new-pin-file "$work/pin" --new-puk-file "$work/puk"
fi

step "The engineer: a key that cannot leave the card, attested by Yubico's chain"
status=0
run touchstone key generate --slot "$slot" --user "$user" --team payments "${pin[@]}" "${roots[@]}" || status=$?
# 11: the slot holds a key. On a real card that is the key of an earlier demo.
if ((status == 11)) && [[ -n "$real" ]]; then
    echo "The key that is there is used."
elif ((status != 0)); then
    exit "$status"
fi
run touchstone key list

step "The security team: the key enters the policy, by pull request"
cat >"$work/policy.yaml" <<EOT
apiVersion: touchstone.dev/v1
kind: Policy
cluster: demo
users:
EOT
run touchstone key enrol --slot "$slot" --user "$user" --team payments "${roots[@]}" --quiet | tee -a "$work/policy.yaml"
if [[ -z "$real" ]]; then
    echo "An approver, with a YubiKey of their own:"
    virtual_yubikey "$work/approver" --serial 23456789 --touch auto
    roots+=(--attestation-root "$work/approver/attestation-root.pem")
    as approver run touchstone key setup --pin-file "$work/factory-pin" --new-pin-file "$work/pin" --new-puk-file "$work/puk"
    as approver run touchstone key generate --user "$approver" --team leads "${pin[@]}" "${roots[@]}"
    as approver run touchstone key enrol --user "$approver" --team leads "${roots[@]}" --quiet | tee -a "$work/policy.yaml"
fi
cat >>"$work/policy.yaml" <<EOT
rules:
  - name: payments on call
    who: { teams: [payments] }
    groups: ["$group"]
    maxTTL: 30m
    reason: { pattern: "^INC-[0-9]+ ", minLength: 12 }
    decision: auto
EOT
[[ -n "$real" ]] || cat >>"$work/policy.yaml" <<EOT
  - name: the whole cluster
    who: { teams: [payments] }
    groups: ["jit:oncall:cluster"]
    decision: manual
    waitFor: 1h
    approvals: [ { from: { teams: [leads] } } ]
EOT
run cat "$work/policy.yaml"
run touchstone-signer policy lint "$work/policy.yaml"

step "The signer: an API server with its own CA, in one process"
echo "${dim}\$ touchstone-signer standalone --data $work/data --listen 127.0.0.1:0 --policy $work/policy.yaml ${roots[*]}$reset"
touchstone-signer standalone --data "$work/data" --listen 127.0.0.1:0 --policy "$work/policy.yaml" \
    "${roots[@]}" --ready-file "$work/ready.json" >"$work/touchstone-signer.log" 2>&1 &
children+=($!)
await "$work/ready.json" $! "$work/touchstone-signer.log"
server=$(sed -n 's/.*"server": *"\([^"]*\)".*/\1/p' "$work/ready.json")
run touchstone config set-cluster demo --server "$server" --ca "$work/data/server-ca.pem" \
    --trust-bundle "$work/data/trust-bundle.pem" --user "$user"

step "On call: thirty minutes of access, for a reason, with a touch"
run touchstone login --cluster demo --group "$group" --ttl 30m --reason "INC-4211 checkout latency" --slot "$slot" "${pin[@]}"

step "What the certificate says, in OpenSSL's words"
certificate="$work/state/demo/certificate.pem"
run openssl x509 -in "$certificate" -noout -subject -issuer -dates -ext keyUsage,extendedKeyUsage,basicConstraints
run openssl verify -purpose sslclient -CAfile "$work/data/trust-bundle.pem" -untrusted "$certificate" "$certificate"

step "Using it: mutual TLS to the API server, signed in the YubiKey's slot"
run touchstone whoami --cluster demo "${pin[@]}"

step "Plain kubectl: its exec plugin starts a proxy, and one touch carries a session"
run touchstone setup --cluster demo --kubeconfig "$work/kubeconfig" --set-current
export KUBECONFIG="$work/kubeconfig"
# What kubectl would do by itself; here the PIN comes from a file.
run touchstone credential --cluster demo "${pin[@]}" >/dev/null
run "${KUBECTL:-kubectl}" get --raw /version
echo
if "${KUBECTL:-kubectl}" auth whoami --help 2>/dev/null | grep -q "auth whoami"; then
    run "${KUBECTL:-kubectl}" auth whoami
else
    # An old kubectl asks by hand.
    echo '{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}' >"$work/review.json"
    run "${KUBECTL:-kubectl}" create --raw /apis/authentication.k8s.io/v1/selfsubjectreviews -f "$work/review.json"
fi
run touchstone status

step "Asking for more than the policy grants"
refused touchstone login --cluster demo --group jit:oncall:billing --reason "INC-4211 checkout latency" --slot "$slot" "${pin[@]}"

if [[ -z "$real" ]]; then
    step "Asking for what someone else has to approve"
    request=$(run touchstone login --cluster demo --group jit:oncall:cluster --reason "INC-4211 node pressure" --slot "$slot" "${pin[@]}" --no-wait)
    echo "$request"
    echo "A bare approval in Kubernetes does not say who gave it, and changes nothing:"
    run "${KUBECTL:-kubectl}" --kubeconfig "$work/data/admin.kubeconfig" certificate approve "$request"
    refused touchstone login --cluster demo --resume --timeout 2s "${pin[@]}"

    step "The approver: sees what is asked, and signs with their own YubiKey"
    as approver run touchstone config set-cluster demo --server "$server" --ca "$work/data/server-ca.pem" \
        --trust-bundle "$work/data/trust-bundle.pem" --user "$approver" --attestation-root "$work/attestation-root.pem"
    as approver run touchstone requests "${pin[@]}"
    as approver run touchstone approve "$request" --comment "seen INC-4211" --yes "${pin[@]}"
    run touchstone login --cluster demo --resume "${pin[@]}"
fi

step "Who has access now, and the record of it"
run touchstone status
run "${KUBECTL:-kubectl}" --kubeconfig "$work/data/admin.kubeconfig" get csr
run "${KUBECTL:-kubectl}" --kubeconfig "$work/data/admin.kubeconfig" get grants
run touchstone-signer audit verify --data "$work/data"

step "Shown in $((SECONDS - started)) seconds"
cat <<EOT
A key was made in the card and attested; the policy named it; one touch signed a request that carried its reason;
the signer checked it, recorded its intent, and signed a certificate of thirty minutes; the card's key opened an API server with it;
what the policy did not grant was denied with the reason; what needed approval waited for another person's YubiKey; and the audit log's chain holds.
EOT
