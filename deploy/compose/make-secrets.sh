#!/bin/sh
# Creates the files in secrets/ that docker-compose.yml reads, and changes no existing file. Run it in the folder of
# docker-compose.yml.
set -eu

# The user of a container must be able to read the files. The mode of the folder keeps out the other users of this
# machine.
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
# For the profile 'rabbitmq': its login, and the URL with which the other containers log in.
password=$(random | tr -d '=')
[ -s secrets/broker_url ] && [ -s secrets/rabbitmq_login ] || rm -f secrets/broker_url secrets/rabbitmq_login
keep broker_url "amqp://mail:$password@rabbitmq:5672//"
keep rabbitmq_login "default_user = mail
default_pass = $password"
