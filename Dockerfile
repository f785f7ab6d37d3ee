# What is installed and collected is made here; pip and its like stay behind.
FROM python:3.13.15-slim-trixie AS builder

RUN python -m venv --without-pip /venv

WORKDIR /app

COPY requirements/run.txt requirements/run.txt
RUN pip --python /venv/bin/python install --no-cache-dir --require-hashes -r requirements/run.txt

COPY manage.py gunicorn.conf.py ./
COPY worker worker
COPY config config

# The key is for this one command: nothing of it stays in the image. A volume at var/payloads takes the folder's owner.
RUN SECRET_KEY=throwaway VAR_DIR=/app/var PYTHONPATH=/app/worker:/app /venv/bin/python manage.py collectstatic --noinput \
    && /venv/bin/python -m compileall -q worker config \
    && mkdir -p var/payloads

FROM python:3.13.15-slim-trixie

# All that is written lies in /tmp and in /app/var/payloads, so that the file system may be read-only.
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app/worker:/app \
    VAR_DIR=/app/var

RUN python -m pip uninstall --yes --root-user-action=ignore pip \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /app app

WORKDIR /app

COPY --from=builder /venv /venv
COPY --from=builder /app /app
COPY --from=builder --chown=10001:10001 /app/var/payloads /app/var/payloads

USER 10001:10001
EXPOSE 8000

CMD ["gunicorn", "config.wsgi", "--bind", "0.0.0.0:8000"]
