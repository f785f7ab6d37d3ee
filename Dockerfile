# This stage installs the packages and collects the static files. pip and other tools are not copied to the image.
FROM python:3.13.15-slim-trixie AS builder

RUN python -m venv --without-pip /venv

WORKDIR /app

COPY requirements/run.txt requirements/run.txt
RUN pip --python /venv/bin/python install --no-cache-dir --require-hashes -r requirements/run.txt

COPY manage.py gunicorn.conf.py ./
COPY worker worker
COPY config config

# The key is only for this command, and is not stored in the image.
RUN SECRET_KEY=throwaway VAR_DIR=/app/var PYTHONPATH=/app/worker:/app /venv/bin/python manage.py collectstatic --noinput \
    && /venv/bin/python -m compileall -q worker config

FROM python:3.13.15-slim-trixie

# The program writes only to /tmp, /app/var/payloads and /app/var/journals, so the file system may be read-only.
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

# A new volume takes owner and mode of the folder that it covers. COPY would not change those of an existing folder.
RUN install --directory --owner=10001 --group=10001 --mode=700 var/payloads var/journals

USER 10001:10001
EXPOSE 8000

CMD ["gunicorn", "config.wsgi", "--bind", "0.0.0.0:8000"]
