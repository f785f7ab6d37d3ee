FROM python:3.11.14-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app/worker:/app \
    VAR_DIR=/app/var

WORKDIR /app

COPY requirements/run.txt requirements/run.txt
RUN pip install --no-cache-dir --require-hashes -r requirements/run.txt

COPY manage.py gunicorn.conf.py ./
COPY worker worker
COPY config config

# The key is for this one command: nothing of it stays in the image. A volume at var/payloads takes the folder's owner.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app app \
    && SECRET_KEY=throwaway python manage.py collectstatic --noinput \
    && mkdir -p var/payloads \
    && chown -R app:app var

USER 10001:10001
EXPOSE 8000

CMD ["gunicorn", "config.wsgi", "--bind", "0.0.0.0:8000"]
