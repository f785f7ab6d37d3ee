#!/bin/sh
# Makes the files in secrets/ that docker-compose.yml reads, and leaves alone those that are there. Run it where that file is.
set -eu

# Containers read them as a user of their own; the folder keeps everybody else on this machine out.
umask 022
mkdir -p secrets
chmod 700 secrets

random() {
    head -c 32 /dev/urandom | base64 | tr '+/' '-_'
}

keep() {
    [ -s "secrets/$1" ] || printf '%s\n' "$2" > "secrets/$1"
}

keep secret_key "$(random)"
keep smtp_password_keys "$(random)"
keep postgres_password "$(random)"
keep flower_basic_auth "admin:$(random)"
# For the profile 'rabbitmq': what it is told, and what all others are.
password=$(random | tr -d '=')
[ -s secrets/broker_url ] && [ -s secrets/rabbitmq_login ] || rm -f secrets/broker_url secrets/rabbitmq_login
keep broker_url "amqp://mail:$password@rabbitmq:5672//"
keep rabbitmq_login "default_user = mail
default_pass = $password"
