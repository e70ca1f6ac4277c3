"""A Kafka broker with listeners that require a client certificate or a password."""

from pathlib import Path
from string import Template

from stack.kafka import KafkaBroker
from stack.state import LOOPBACK, StackState
from tests.support.security.certificates import Certificate, CertificateAuthority

CLIENT, PASSWORD = "liveprofile", 'of "a" client'

# Added to stack/conf/server.properties; the second value of a property wins.
LISTENERS = Template("""
listeners=PLAINTEXT://${host}:${plain},CONTROLLER://${host}:${controller},\
MTLS://${host}:${mtls},PASSWORD://${host}:${password}
advertised.listeners=PLAINTEXT://${host}:${plain},CONTROLLER://${host}:${controller},\
MTLS://${host}:${mtls},PASSWORD://${host}:${password}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,MTLS:SSL,PASSWORD:SASL_SSL
ssl.truststore.type=PEM
ssl.truststore.location=${ca_file}
ssl.keystore.type=PEM
ssl.keystore.location=${keystore}
listener.name.mtls.ssl.client.auth=required
listener.name.password.sasl.enabled.mechanisms=PLAIN
listener.name.password.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_${user}="${secret}";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:CN=${user};User:${user}
""")


class SecuredBroker(KafkaBroker):
    """Besides its plaintext listener: `mtls` (SSL) and `password` (SASL_SSL with PLAIN).

    Clients of the plaintext listener and the name CLIENT may do everything, others what ACLs
    allow.
    """

    def __init__(self, root: Path, authority: CertificateAuthority):
        super().__init__(root, StackState(root))
        self._authority = authority

    @property
    def mtls(self) -> str:
        return f"{LOOPBACK}:{self.state.ports('kafka_mtls')['kafka_mtls']}"

    @property
    def password(self) -> str:
        return f"{LOOPBACK}:{self.state.ports('kafka_password')['kafka_password']}"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        command, environment = super().prepare()
        ports = self.state.ports("kafka", "kafka_controller", "kafka_mtls", "kafka_password")
        listeners = LISTENERS.substitute(
            host=LOOPBACK,
            plain=ports["kafka"],
            controller=ports["kafka_controller"],
            mtls=ports["kafka_mtls"],
            password=ports["kafka_password"],
            ca_file=self._authority.file,
            keystore=self._keystore(self._authority.issue("broker")),
            user=CLIENT,
            secret=PASSWORD.replace('"', '\\\\"'),
        )
        with (self.folder / "server.properties").open("a", encoding="utf-8") as properties:
            properties.write(listeners)
        return command, environment

    def _keystore(self, certificate: Certificate) -> Path:
        """The broker takes key and certificate in one file."""
        keystore = self.folder / "keystore.pem"
        keystore.write_text("".join(file.read_text() for file in reversed(certificate)))
        return keystore
