"""Razorpay's Python client against the simulator that BASE_URL names."""

import json
import os
import unittest

import razorpay
from razorpay.errors import BadRequestError, ServerError, SignatureVerificationError

BASE = os.environ["BASE_URL"]
PAID = json.loads(os.environ["PAID"])


def client(secret=os.environ["KEY_SECRET"]):
    return razorpay.Client(auth=(os.environ["KEY_ID"], secret), base_url=BASE)


class Simulator(unittest.TestCase):
    def test_1_order_is_created_fetched_and_listed(self):
        order = client().order.create(data={"amount": 50000, "currency": "INR", "receipt": "py-1"})
        self.assertEqual(order["status"], "created")
        self.assertEqual(client().order.fetch(order["id"])["amount"], 50000)
        self.assertEqual([o["id"] for o in client().order.all({"receipt": "py-1"})["items"]], [order["id"]])
        self.assertEqual(client().order.payments(order["id"])["count"], 0)

    def test_2_bad_request_is_the_clients_bad_request(self):
        with self.assertRaisesRegex(BadRequestError, "at least INR 1.00"):
            client().order.create(data={"amount": 1, "currency": "INR"})
        with self.assertRaisesRegex(BadRequestError, "does not exist"):
            client().order.fetch("order_00000000000000")

    def test_3_wrong_secret_is_refused(self):
        with self.assertRaises(BadRequestError):
            client("wrong").order.all()

    def test_4_server_error_is_the_clients_server_error(self):
        client().session.post(BASE + "/__sim/faults", json={"api": [{"status": 500}]})
        with self.assertRaises(ServerError):
            client().order.create(data={"amount": 100, "currency": "INR"})

    def test_5_signature_of_a_payment_is_verified(self):
        self.assertTrue(client().utility.verify_payment_signature(PAID))
        with self.assertRaises(SignatureVerificationError):
            client().utility.verify_payment_signature({**PAID, "razorpay_payment_id": "pay_00000000000000"})

    def test_6_payment_is_captured_and_refunded(self):
        payment = PAID["razorpay_payment_id"]
        self.assertEqual(client().payment.fetch(payment)["status"], "authorized")
        self.assertEqual(client().payment.capture(payment, 5000, {"currency": "INR"})["status"], "captured")
        refund = client().payment.refund(payment, {"amount": 2000})
        self.assertEqual(refund["status"], "processed")
        self.assertEqual(client().refund.fetch(refund["id"])["amount"], 2000)
        self.assertEqual(client().payment.refund(payment, {})["amount"], 3000)

    def test_7_lists_are_collections(self):
        for listed in (client().payment.all({"count": 1}), client().refund.all()):
            self.assertEqual(listed["entity"], "collection")
        with self.assertRaises(BadRequestError):
            client().payment.all({"count": 101})

    def test_8_webhook_signature_is_verified(self):
        here = os.path.dirname(os.path.abspath(__file__))
        with open(os.path.join(here, "payment-authorized-webhook.json"), encoding="utf-8", newline="") as body:
            text = body.read()
        signature = "d60e67fd884556c045e9be7dad57903e33efc7172c17c6e3ef77db42d2b366e9"
        self.assertTrue(client().utility.verify_webhook_signature(text, signature, "key_secret"))


if __name__ == "__main__":
    unittest.main()
