# The image of every service in compose.yaml that runs this package. Python 3.11, for which constraints.txt was tested.
FROM python:3.11-slim
WORKDIR /opt/alike
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[s3]'
RUN useradd --create-home alike && mkdir /data && chown alike /data
USER alike
WORKDIR /data
ENTRYPOINT []
CMD ["alike", "--help"]
