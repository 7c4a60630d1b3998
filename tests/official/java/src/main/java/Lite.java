import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Lite topics: a consumer gets those that it subscribes to, each in order, and no others. */
final class Lite {
    static final Map<String, Official.Scenario> SCENARIOS = Map.of("lite", official -> new Lite(official).lite());

    /** Messages belong to these in turn; nobody subscribes to the last. The second message of the first fails once. */
    private static final List<String> NAMES = List.of("first-session", "second-session", "nobodys-session");
    private static final int FAILS_ONCE = NAMES.size();
    /** A send is tried again for as long as this. */
    private static final Duration SENT_WITHIN = Duration.ofSeconds(40);

    private final Official official;

    private Lite(Official official) {
        this.official = official;
    }

    /** What came of each lite topic, in the order in which it came. */
    private static final class Came {
        private final List<List<Integer>> came =
            NAMES.stream().map(name -> new ArrayList<Integer>()).collect(Collectors.toList());
        private final List<Integer> attempts = new ArrayList<>();
        private final List<String> wrong = new ArrayList<>();

        /** Whether the message shall fail now. */
        synchronized boolean note(MessageView message) {
            int sequence = Integer.parseInt(Official.body(message));
            int number = sequence % NAMES.size();
            boolean right = message.getLiteTopic().filter(NAMES.get(number)::equals).isPresent();
            if (!right || !Official.intact(message, "official")) {
                wrong.add(message.toString());
            }
            came.get(number).add(sequence);
            if (sequence != FAILS_ONCE) {
                return false;
            }
            attempts.add(message.getDeliveryAttempt());
            return attempts.size() == 1;
        }

        synchronized boolean has(int sequence) {
            return came.get(sequence % NAMES.size()).contains(sequence);
        }

        synchronized Map<String, Object> result(int sent) {
            Map<String, Object> result = new LinkedHashMap<>();
            result.put("sent", sent);
            result.put("orders", came.stream().map(ArrayList::new).collect(Collectors.toList()));
            result.put("attempts", new ArrayList<>(attempts));
            result.put("wrong", wrong.stream().limit(3).collect(Collectors.toList()));
            return result;
        }
    }

    /** Sends until it is taken: for a while nobody leads. */
    private void send(Producer producer, int sequence) throws ClientException {
        Message message = official.builder(sequence, "official").setLiteTopic(NAMES.get(sequence % NAMES.size())).build();
        long deadline = System.nanoTime() + SENT_WITHIN.toNanos();
        while (true) {
            try {
                producer.send(message);
                return;
            } catch (ClientException failure) {
                System.err.println(failure);
                if (System.nanoTime() > deadline) {
                    throw failure;
                }
            }
        }
    }

    /**
     * Sends {@code count} messages to each lite topic, half of them once the test says so, and then one more, which only
     * the lite topic that is still subscribed to gives.
     */
    private Map<String, Object> lite() throws Exception {
        Came came = new Came();
        LitePushConsumer consumer = Official.CLIENT.newLitePushConsumerBuilder()
            .setClientConfiguration(official.configuration()).setConsumerGroup(official.group).bindTopic(official.topic)
            .setMessageListener(message -> came.note(message) ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS).build();
        consumer.subscribeLite(NAMES.get(0));
        consumer.subscribeLite(NAMES.get(1));
        Producer producer = official.producer();
        int last = NAMES.size() * official.count;
        for (int sequence = 0; sequence < last; sequence++) {
            if (sequence == last / 2) {
                Official.say("HALF");
                Official.INPUT.readLine();
            }
            send(producer, sequence);
        }
        Official.await(() -> came.has(last - 3) && came.has(last - 2), Official.PATIENCE);
        consumer.unsubscribeLite(NAMES.get(1));
        for (int number : new int[] {1, 2, 0}) {
            send(producer, last + number);
        }
        Official.await(() -> came.has(last), Official.PATIENCE);
        // What should not come would come with it, or soon.
        Thread.sleep(1000);
        return came.result(official.count);
    }
}
